"""What each kind of objective selects, against tables worked out by hand."""

from itertools import pairwise
from pathlib import Path

import pytest

from evomerge.execution.serial import SerialExecutor
from evomerge.objective import Floor, Kind, Objective
from evomerge.results.finalists import FRONT_FINALISTS, finalists
from evomerge.results.result import selection
from evomerge.results.select import select
from evomerge.study import Study
from evomerge.trial import Outcome, Trial
from tests.evomerge.results.tables import Table, TableBench, searched

#: The best parents score 0.9 on both tasks.
PARENTS = {"parent:a": {"a": 0.9, "b": 0.1}, "parent:b": {"a": 0.2, "b": 0.9}, "uniform": {"a": 0.4, "b": 0.4}}
TABLE: Table = {
    **PARENTS,
    "x1": {"a": 0.6, "b": 1.0},  # the best mean
    "x2": {"a": 0.8, "b": 0.6},  # falls 0.1 behind on a
    "x3": {"a": 0.7, "b": 0.7},  # the best worst task
    "x4": {"a": 0.7, "b": 0.5},  # dominated by x2 and x3
}
WEIGHTS = {"a": 1.0, "b": 1.0}


def winner(tmp_path: Path, objective: Objective, table: Table = TABLE) -> tuple[str, bool | None, str]:
    """Name of the winning model in the table, whether it keeps what was asked, and the verdict."""
    study, executor = searched(tmp_path / "s", objective, table)
    assert select(study, executor, objective, None).kind == "done"
    result = selection(study, objective)
    return model(result.winner.x), result.keeps, result.verdict


def model(x: object) -> str:
    return "x" + str(round(100 * x[0]))  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "weights", "keep", "expected"),
    [
        ("mean", WEIGHTS, {}, "x1"),
        ("mean", {"a": 4.0, "b": 1.0}, {}, "x2"),
        ("mean", WEIGHTS, {"a": 0.1}, "x2"),
        ("mean", WEIGHTS, {"a": 0.2, "b": 0.2}, "x3"),
        ("chebyshev", WEIGHTS, {}, "x3"),
        ("chebyshev", {"a": 4.0, "b": 1.0}, {}, "x2"),
        ("retention", WEIGHTS, {}, "x3"),
        ("pareto", WEIGHTS, {}, "x1"),
        ("pareto", {"a": 4.0, "b": 1.0}, {}, "x2"),
        ("pareto", WEIGHTS, {"a": 0.1}, "x2"),
    ],
)
def test_who_wins(tmp_path: Path, kind: Kind, weights: dict[str, float], keep: dict[str, float], expected: str) -> None:
    name, keeps, _ = winner(
        tmp_path, Objective(weights, kind=kind, keep={task: Floor(fall) for task, fall in keep.items()})
    )
    assert (name, keeps) == (expected, True if keep else None)


def test_a_limit_on_flips_decides_as_a_floor_does_and_the_verdict_names_it(tmp_path: Path) -> None:
    assert winner(tmp_path / "met", Objective(WEIGHTS, keep={"a": Floor(0.1, "flips")}))[:2] == ("x2", True)
    name, keeps, verdict = winner(tmp_path / "missed", Objective(WEIGHTS, keep={"a": Floor(0.05, "flips")}))
    assert (name, keeps) == ("x2", False)
    assert verdict.startswith(
        "trial:4 violates a constraint on held-out examples: a flips 5% (10.0 % of the examples are lost, against "
    )


@pytest.mark.parametrize("kind", ["mean", "pareto", "chebyshev"])
def test_where_nothing_keeps_what_was_asked_the_nearest_wins_and_the_verdict_says_so(
    tmp_path: Path, kind: Kind
) -> None:
    name, keeps, verdict = winner(tmp_path, Objective(WEIGHTS, kind=kind, keep={"a": Floor(0.05)}))
    assert (name, keeps) == ("x2", False)
    assert "No finalist met all constraints (a -0.05) on the select split; trial:4 came closest." in verdict
    assert verdict.startswith("trial:4 violates a constraint on held-out examples: a -0.05 (-10.0 ± ")


def test_keep_is_measured_on_the_select_split(tmp_path: Path) -> None:
    table = {**TABLE, "select/x2": {"a": 0.3, "b": 0.6}, "select/x3": {"a": 0.8, "b": 0.6}}
    assert winner(tmp_path, Objective(WEIGHTS, keep={"a": Floor(0.1)}), table)[:2] == ("x3", True)


def test_retention_of_what_no_parent_scores_on_few_examples(tmp_path: Path) -> None:
    table = {**TABLE, "select/parent:a": {"a": 0.0, "b": 0.1}, "select/parent:b": {"a": 0.0, "b": 0.9}}
    assert winner(tmp_path, Objective(WEIGHTS, kind="retention"), table)[0] == "x3"


def test_a_pareto_search_reports_its_front_in_one_look(tmp_path: Path) -> None:
    objective = Objective(WEIGHTS, kind="pareto")
    study, executor = searched(tmp_path / "s", objective, {**TABLE, "select/x2": {"a": 0.6, "b": 0.6}})
    assert select(study, executor, objective, None).kind == "done"
    on_select = {model(e.trial.x) for e in study.told if e.trial.split == "select" and e.trial.x is not None}
    assert on_select == {"x1", "x2", "x3"}, "x4 is not on the front of the search"
    result = selection(study, objective)
    on_report = [e for e in study.told if e.trial.split == "report"]
    assert {model(e.trial.x) for e in on_report if e.trial.x is not None} == {"x1", "x3"}, "x2 is dominated on select"
    assert {e.trial.label for e in on_report if e.trial.x is None} == {"parent:a", "parent:b", "uniform"}
    assert (result.looks, len(result.front)) == (1, 2)
    assert result.models[0].label == result.winner.label


def test_a_large_front_is_thinned_to_its_ends_and_what_lies_between(tmp_path: Path) -> None:
    objective = Objective(WEIGHTS, kind="pareto")
    table = {**PARENTS, **{f"x{n}": {"a": n / 100, "b": 1 - (n / 100) ** 2} for n in range(20, 60)}}
    study, _ = searched(tmp_path / "s", objective, table, n_examples=10_000)
    chosen = sorted(round(100 * t.x[0]) for t in finalists(study, objective) if t.x is not None)
    assert len(chosen) == FRONT_FINALISTS
    assert {chosen[0], chosen[-1]} == {20, 59}
    assert 50 in chosen, "the preferred one: the mean is largest at 0.5"
    assert max(b - a for a, b in pairwise(chosen)) <= 6


def test_one_parent_is_scored_twice_and_counts_once(tmp_path: Path) -> None:
    objective = Objective(WEIGHTS)
    study, executor = searched(tmp_path / "s", objective, TABLE)
    before = len(study.told)
    select(study, executor, objective, None)
    labels = [e.trial.label for e in study.told[before:] if e.trial.split == "select"]
    assert labels.count("rerun:parent:a") == labels.count("parent:a") == 1
    repeat = selection(study, objective).repeat
    assert repeat is not None
    assert (repeat.label, repeat.changed, repeat.moved) == ("parent:a", {"a": 0, "b": 0}, 0.0)
    assert repeat.shifts == {"a": 0.0, "b": 0.0}


def test_task_by_task_with_many_examples(tmp_path: Path) -> None:
    objective = Objective({"a": 1.0, "b": 1.0, "c": 1.0}, kind="chebyshev")
    table = {
        "parent:a": {"a": 0.5, "b": 0.1, "c": 0.5},
        "parent:b": {"a": 0.2, "b": 0.8, "c": 0.4},
        "x1": {"a": 0.6, "b": 0.7, "c": 0.505},
    }
    study, executor = searched(tmp_path / "s", objective, table, n_examples=200)
    select(study, executor, objective, None)
    result = selection(study, objective)
    assert [(c.task, c.parent, c.shown) for c in result.claims] == [
        ("a", "parent:a", True),
        ("b", "parent:b", True),
        ("c", "parent:a", False),
    ]
    assert result.claims[0].gain.mean == pytest.approx(0.1)
    # Holm: the larger p of three is left alone, the two smallest are equal and both are multiplied by 3.
    assert result.claims[0].p == pytest.approx(3 * result.claims[0].gain.p)
    assert result.claims[2].p == pytest.approx(result.claims[2].gain.p)
    assert "The worst task of trial:2 on held-out examples is b, against parent:b: -10.0 ± " in result.verdict
    assert "better on a (+10.0 ± " in result.verdict
    assert "worse on b (-10.0 ± " in result.verdict
    assert "not shown to differ on c." in result.verdict


def _labels(study: Study, split: str) -> list[str]:
    return [e.trial.label for e in study.told if e.trial.split == split and e.trial.x is None]


def test_only_the_strongest_baselines_are_scored_on_held_out_examples(tmp_path: Path) -> None:
    table = {
        "base": {"a": 0.1, "b": 0.1},
        "parent:a": {"a": 0.9, "b": 0.2},
        "parent:close": {"a": 0.88, "b": 0.1},  # worse everywhere, but on `a` by no more than chance explains
        "parent:weak": {"a": 0.3, "b": 0.1},
        "uniform": {"a": 0.05, "b": 0.05},
        "task_arithmetic:0.4": {"a": 0.4, "b": 0.4},
        "task_arithmetic:0.6": {"a": 0.6, "b": 0.6},
        "task_arithmetic:0.8": {"a": 0.61, "b": 0.6},
        "select/task_arithmetic:0.8": {"a": 0.5, "b": 0.6},
        "x1": {"a": 0.7, "b": 0.7},
    }
    study, executor = searched(tmp_path / "s", Objective(WEIGHTS), table, n_examples=100)
    assert select(study, executor, Objective(WEIGHTS), None).kind == "done"
    models = ["base", "parent:a", "parent:close", "uniform"]
    grid = ["task_arithmetic:0.6", "task_arithmetic:0.8"]
    assert _labels(study, "select") == [*models, *grid, "rerun:parent:a"]
    assert _labels(study, "report") == [*models, grid[0]], "the better one on the select split"


def test_an_expert_that_is_the_best_on_one_task_stays_whatever_its_mean(tmp_path: Path) -> None:
    table = {"parent:a": {"a": 0.9, "b": 0.9}, "parent:b": {"a": 0.0, "b": 0.91}, "x1": {"a": 0.9, "b": 0.9}}
    study, executor = searched(tmp_path / "s", Objective(WEIGHTS), table, n_examples=100)
    assert select(study, executor, Objective(WEIGHTS), None).kind == "done"
    assert _labels(study, "report") == ["parent:a", "parent:b"]


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (
            "select",
            "every finalist failed on the select split (2 ValueError, 2 OSError); the first: ValueError: no model",
        ),
        ("report", "the winner has no score on the report split (1 OSError); the first: OSError: no disk"),
    ],
)
def test_a_fault_after_the_search_pauses_the_study_and_a_resume_ends_it(
    tmp_path: Path, split: str, reason: str
) -> None:
    bench = TableBench(TABLE, 10)

    class Broken:
        def run(self, trial: Trial) -> Outcome:
            if trial.split == split and trial.label.startswith("trial:"):
                raise OSError("no disk") if trial.number % 2 else ValueError("no model")
            return bench.run(trial)

    table = {name: row for name, row in TABLE.items() if name != "uniform"}
    study, whole = searched(tmp_path / "s", Objective(WEIGHTS), table)
    ending = select(study, SerialExecutor(Broken), Objective(WEIGHTS), None)
    assert (ending.kind, ending.message.partition("\n")[0]) == ("paused", reason)
    assert "Traceback" in ending.message
    assert study.events[-1][0] == "paused"
    assert select(study, whole, Objective(WEIGHTS), None).kind == "done"
    assert model(selection(study, Objective(WEIGHTS)).winner.x) == "x1"
