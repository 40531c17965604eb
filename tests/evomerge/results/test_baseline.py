"""The best baseline: chosen on select, compared on report, in the headline."""

from pathlib import Path

import pytest

from evomerge.objective import Floor, Kind, Objective
from evomerge.results.as_json import selection_to_dict
from evomerge.results.result import Selection, selection
from evomerge.results.select import select
from tests.evomerge.results.tables import Table, searched

#: The parent is far behind; of the grid 0.8 is the best on select, though 0.6 is on the search split.
GRID: Table = {
    "base": {"a": 0.3},
    "parent:a": {"a": 0.6},
    "uniform": {"a": 0.65},
    "task_arithmetic:0.6": {"a": 0.76},
    "task_arithmetic:0.8": {"a": 0.75},
    "select/task_arithmetic:0.6": {"a": 0.7},
    "report/task_arithmetic:0.6": {"a": 0.9},
    "x1": {"a": 0.8},
}


def result(folder: Path, table: Table, objective: Objective | None = None) -> Selection:
    objective = objective or Objective({"a": 1.0})
    study, executor = searched(folder / "s", objective, table, n_examples=200)
    assert select(study, executor, objective, None).kind == "done"
    found = selection(study, objective)
    reported = [e.trial.label for e in study.told if e.trial.split == "report"]
    assert len(reported) == len(set(reported))
    assert set(reported) == {standing.label for standing in found.models}
    return found


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (0.80, "; not shown to be better than task_arithmetic:0.8 (+0.0 ± "),
        (0.79, "; not shown to be better than task_arithmetic:0.8 (+1.0 ± "),
        (0.70, ", and the best baseline, task_arithmetic:0.8 (+10.0 ± "),
        (0.90, "; worse than task_arithmetic:0.8 (-10.0 ± "),
    ],
)
def test_the_headline_names_the_best_baseline_of_the_select_split(tmp_path: Path, theirs: float, said: str) -> None:
    found = result(tmp_path, {**GRID, "report/task_arithmetic:0.8": {"a": theirs}})
    assert found.baseline == "task_arithmetic:0.8"
    assert selection_to_dict(found)["baseline"] == "task_arithmetic:0.8"
    labels = {standing.label for standing in found.models}
    assert labels == {found.winner.label, "base", "parent:a", "uniform", "task_arithmetic:0.8"}
    assert "beats the best-scoring parent, parent:a, on held-out examples (+20.0 ± " in found.verdict
    assert said in found.verdict.split(". ")[0] + "."


def test_how_many_examples_would_tell_them_apart(tmp_path: Path) -> None:
    found = result(tmp_path, {**GRID, "report/task_arithmetic:0.8": {"a": 0.79}})
    assert "; showing it would take at least " in found.verdict


def test_nothing_is_claimed_against_a_baseline_where_no_parent_is_beaten(tmp_path: Path) -> None:
    table = {**GRID, "report/parent:a": {"a": 0.8}, "report/task_arithmetic:0.8": {"a": 0.5}}
    verdict = result(tmp_path, table).verdict
    assert "No merge was shown to be better than the best-scoring parent, parent:a," in verdict
    assert "; against the best baseline, task_arithmetic:0.8: +30.0 ± " in verdict
    assert "and the best baseline" not in verdict


def test_a_baseline_that_won_is_named_as_one(tmp_path: Path) -> None:
    found = result(tmp_path, {**GRID, "select/uniform": {"a": 0.95}})
    assert found.winner.label == found.baseline == "uniform"
    assert "; uniform is itself a baseline, and no candidate of the search was better on the select split." in (
        found.verdict
    )


TWO: Table = {
    "parent:a": {"a": 0.9, "b": 0.3},
    "parent:b": {"a": 0.3, "b": 0.9},
    "uniform": {"a": 0.5, "b": 0.5},
    "task_arithmetic:0.4": {"a": 0.95, "b": 0.5},  # the best mean of the two, and the worse worst task
    "task_arithmetic:0.6": {"a": 0.65, "b": 0.65},
    "x1": {"a": 0.8, "b": 0.8},
}


@pytest.mark.parametrize(
    ("kind", "keep", "best", "said"),
    [
        ("mean", {}, "task_arithmetic:0.4", "the best baseline, task_arithmetic:0.4 (+7.5 ± "),
        ("pareto", {}, "task_arithmetic:0.4", "the best baseline, task_arithmetic:0.4 (+7.5 ± "),
        ("chebyshev", {}, "task_arithmetic:0.6", "; chebyshev -10.0 against -25.0 points)"),
        ("retention", {}, "task_arithmetic:0.6", "; retention 88.9 % against 72.2 %)"),
        ("mean", {"b": 0.1}, "task_arithmetic:0.6", "task_arithmetic:0.6, which violates a constraint ("),
    ],
)
def test_the_best_baseline_is_the_one_that_the_objective_prefers(
    tmp_path: Path, kind: Kind, keep: dict[str, float], best: str, said: str
) -> None:
    floors = {task: Floor(fall) for task, fall in keep.items()}
    found = result(tmp_path, TWO, Objective({"a": 1.0, "b": 1.0}, kind=kind, keep=floors))
    assert found.baseline == best
    assert said in found.verdict
    assert best in {standing.label for standing in found.models}


def test_winner_baseline_and_parents_are_judged_by_keep_on_the_report_split(tmp_path: Path) -> None:
    # On the select split the winner and the baseline keep what is asked, on the report split neither does.
    table = {
        **TWO,
        "select/x1": {"a": 0.8, "b": 0.9},
        "report/x1": {"a": 0.8, "b": 0.2},
        "select/task_arithmetic:0.6": {"a": 0.65, "b": 0.85},
    }
    objective = Objective({"a": 1.0, "b": 1.0}, kind="retention", keep={"b": Floor(0.1)})
    found = result(tmp_path, table, objective)
    assert (found.keeps, found.baseline) == (True, "task_arithmetic:0.6")
    violates = "trial:5 violates a constraint on held-out examples: b -0.1 (-70.0 ± "
    assert found.verdict.startswith(violates), found.verdict
    assert "; worse than task_arithmetic:0.6, which also violates a constraint (" in found.verdict
    assert "retention 22.2 % against 72.2 %" in found.verdict
    assert "is b, against parent:b: -70.0 ± " in found.verdict
    assert "a change of -77.8 %." in found.verdict


def test_the_worst_task_is_measured_against_the_best_parent_of_the_report_split(tmp_path: Path) -> None:
    table = {**TWO, "select/parent:a": {"a": 0.3, "b": 0.9}, "select/parent:b": {"a": 0.9, "b": 0.3}}
    found = result(
        tmp_path, {**table, "report/x1": {"a": 0.8, "b": 0.7}}, Objective({"a": 1.0, "b": 1.0}, kind="retention")
    )
    assert {claim.task: claim.parent for claim in found.claims} == {"a": "parent:b", "b": "parent:a"}
    assert "on held-out examples is b, against parent:b: -20.0 ± " in found.verdict
