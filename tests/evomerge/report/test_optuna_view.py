"""The Optuna study is the ledger's search split, whether it was read at once or as it was written."""

from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.spec import record_objective
from evomerge.report.optuna_view import OptunaView
from evomerge.study import Study
from evomerge.study.follow import Follower
from evomerge.trial import Failure, Outcome, Trial
from tests.evomerge.report.studies import fail, tell, write_study


def trials(view: OptunaView) -> list[FrozenTrial]:
    return view.storage.get_all_trials(0)


def facts(view: OptunaView) -> list[dict[str, Any]]:
    # Optuna itself notes when a trial that was seen running is completed.
    return [{k: v for k, v in vars(t).items() if "datetime" not in k} for t in trials(view)]


def test_states_values_labels_and_reasons(tmp_path: Path) -> None:
    write_study(tmp_path).close()
    view = OptunaView(Follower(tmp_path))
    view.update()
    found = trials(view)
    assert [t.number for t in found] == list(range(8))
    assert [t.state for t in found[4:]] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.RUNNING,
    ]
    assert [t.user_attrs["label"] for t in found[:4]] == ["canary", "parent:a", "parent:b", "search"]
    assert found[4].values == [0.75 * 0.75 - 0.25 * 1.0]
    assert (found[4].user_attrs["one"], found[4].user_attrs["two"]) == (0.75, 1.0)
    assert found[5].user_attrs["failure"] == "NonFiniteScore: NonFiniteScore happened"
    assert (found[1].params, found[4].params) == ({}, {"x0": 0.5})
    study = view.storage.get_all_studies()[0]
    assert (study.study_name, study.direction.name) == (tmp_path.name, "MAXIMIZE")
    assert study.user_attrs["state"] == "open"


def test_a_study_watched_from_its_beginning_is_the_study_read_at_its_end(tmp_path: Path) -> None:
    study = Study.create(tmp_path, {"tasks": {"one": {}, "two": {}}, "objective": {"one": 3, "two": 1}}, {})
    record_objective(study, Objective({"one": 3.0, "two": 1.0}))
    watched = OptunaView(Follower(tmp_path))
    x = np.array([0.5, 0.25])

    study.ask(Trial(0, x))
    watched.update()
    assert watched.size == 0
    study.tell(Outcome(0, {t: Scores(("1" * 16,), np.array([1.0])) for t in ("one", "two")}), [-1.0])
    study.ask(Trial(1, x))
    watched.update()
    study.ask(Trial(2, x))
    watched.update()
    study.tell(Outcome(1, {t: Scores(("1" * 16,), np.array([2.0])) for t in ("one", "two")}), [-2.0])
    study.tell(Outcome(2, failure=Failure("Broken", "why")), None)
    tell(study, Trial(3, x, split="select"), [1.0], [1.0])
    fail(study, Trial(4, x), "Broken")
    study.event("selected", label="trial:1")
    watched.update()
    study.close()
    read = OptunaView(Follower(tmp_path))
    read.update()
    assert facts(watched) == facts(read)
    assert [t.user_attrs.get("trial") for t in trials(read)] == [None, None, None, 4]
    assert watched.storage.get_all_studies()[0].user_attrs["selected"] == "trial:1"


def test_with_a_loss_per_task_every_task_is_an_objective_in_its_own_direction(tmp_path: Path) -> None:
    study = Study.create(tmp_path, {"tasks": {"up": {}, "down": {}}, "objective": "pareto"}, {})
    objective = Objective({"up": 1.0, "down": 1.0}, frozenset({"down"}), kind="pareto")
    record_objective(study, objective)
    for number, values in enumerate(((0.0, 0.0), (0.5, 3.0))):
        study.ask(Trial(number, np.array([0.5])))
        scores = {t: Scores(("1" * 16,), np.array([v])) for t, v in zip(("up", "down"), values, strict=True)}
        study.tell(Outcome(number, scores), objective.losses(scores).tolist())
    study.close()
    view = OptunaView(Follower(tmp_path))
    view.update()
    shown = view.storage.get_all_studies()[0]
    assert [d.name for d in shown.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert shown.system_attrs["study:metric_names"] == ["up", "down"]
    assert [t.values for t in trials(view)] == [[0.0, 0.0], [0.5, 3.0]]
