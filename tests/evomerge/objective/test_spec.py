"""The objective of a study, read off its ledger; the settings themselves are tested in test_config.py."""

from pathlib import Path

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.objective import Floor, Objective
from evomerge.objective.spec import objective_of_study, record_objective
from evomerge.study import Study, StudyError
from evomerge.study.lines import FILE
from evomerge.trial import Outcome, Trial

CONFIGURATION = {
    "tasks": {"text": {"evaluator": "perplexity", "file": "gone.txt"}, "size": "model_size", "one": "synthetic"},
    "objective": "pareto",
    "prefer": {"text": 1, "size": 2, "one": 3},
    "keep": {"text": "98%", "one": 0.01},
}
OBJECTIVE = Objective(
    {"text": 1.0, "size": 2.0, "one": 3.0},
    frozenset({"text", "size"}),
    "pareto",
    {"text": Floor(0.98, "share"), "one": Floor(0.01)},
    frozenset({"size"}),
)


def test_a_study_that_says_which_way_its_tasks_count_needs_no_evaluators(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", CONFIGURATION, {})
    record_objective(study, OBJECTIVE)
    record_objective(study, OBJECTIVE)
    study.close()
    again = Study.read(tmp_path / "s")
    assert [kind for kind, _ in again.events] == ["objectives"]
    assert objective_of_study(again) == OBJECTIVE


def test_a_study_that_does_not_say_which_way_its_tasks_count_runs_nothing_to_know(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", {"tasks": {"one": "tests.evomerge.no_such_module:Task"}}, {})
    with pytest.raises(StudyError, match="--resume` writes that down"):
        objective_of_study(study)


def written(folder: Path, spec: object, objective: Objective, rows: list[dict[str, float]]) -> Study:
    """A ledger as it was before it said which way tasks count; its evaluators are nowhere to be found."""
    tasks = dict.fromkeys(objective.weights, "tests.evomerge.no_such_module:Task")
    study = Study.create(folder, {"tasks": tasks, "objective": spec}, {})
    for number, row in enumerate(rows):
        ids = {task: ("whole",) if task in objective.whole_model else ("1", "2") for task in row}
        scores = {task: Scores(ids[task], np.full(len(ids[task]), value)) for task, value in row.items()}
        study.ask(Trial(number, np.array([0.5])))
        study.tell(Outcome(number, scores), list(objective.losses(scores)))
    study.close()
    return Study.read(folder)


ROWS = [
    {"skill": 0.5, "text": 11.0, "size": 3e9, "never": 0.0},
    {"skill": 0.7, "text": 13.5, "size": 3e9, "never": 0.0},
    {"skill": 0.1, "text": 9.25, "size": 1e9, "never": 0.0},
]
WEIGHTS = {"skill": 2.0, "text": 0.1, "size": 1.0, "never": 1.0}


@pytest.mark.parametrize(
    ("spec", "objective"),
    [
        (WEIGHTS, Objective(WEIGHTS, frozenset({"text", "size"}), "mean", whole_model=frozenset({"size"}))),
        (
            "pareto",
            Objective(
                dict.fromkeys(WEIGHTS, 1.0), frozenset({"text", "size"}), "pareto", whole_model=frozenset({"size"})
            ),
        ),
        ("mean", Objective(dict.fromkeys(WEIGHTS, 1.0))),
    ],
)
def test_an_older_ledger_says_by_its_losses_which_way_its_tasks_count(
    tmp_path: Path, spec: object, objective: Objective
) -> None:
    assert objective_of_study(written(tmp_path / "s", spec, objective, ROWS)) == objective


def test_losses_that_do_not_tell_are_not_guessed_from(tmp_path: Path) -> None:
    # Of two tasks that rise together a mean does not say which one counts how; of one trial neither.
    both = Objective({"skill": 1.0, "text": 1.0}, frozenset({"text"}))
    together = [{"skill": value, "text": 2 * value} for value in (0.1, 0.2, 0.4)]
    for name, rows in (("together", together), ("one", [{"skill": 0.5, "text": 11.0}])):
        with pytest.raises(StudyError, match="--resume` writes that down"):
            objective_of_study(written(tmp_path / name, "mean", both, rows))
    # Losses of another objective than the one that is written down.
    with pytest.raises(StudyError, match="--resume` writes that down"):
        objective_of_study(
            written(
                tmp_path / "other",
                {"skill": 1, "text": 3},
                both,
                [{"skill": r["skill"], "text": r["text"]} for r in ROWS],
            )
        )


def test_a_study_without_tasks_has_no_objective(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", {}, {})
    record_objective(study, OBJECTIVE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / FILE).touch()
    for without in (study, Study.read(tmp_path / "empty")):
        with pytest.raises(StudyError, match="has no tasks"):
            objective_of_study(without)
