"""A winner at the end of a searched range is named, with what to do, unless nothing lies beyond."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from evomerge.objective import Objective
from evomerge.report.status import render, status
from evomerge.results.as_json import selection_to_dict
from evomerge.results.coordinates import record_coordinates
from evomerge.results.range_ends import ends_text, range_ends
from evomerge.results.result import selection
from evomerge.results.select import select
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Trial
from search_spaces.base import Layout, Parameter
from search_spaces.layerwise import Layerwise
from search_spaces.simplex import Simplex
from search_spaces.uniform import Uniform
from tests.evomerge.report.studies import tell, write_study
from tests.evomerge.results.tables import Table, baseline, searched

LAYOUT = Layout.from_names(["model.layers.0.mlp.up_proj.weight"])
PARAMETERS = [Parameter("weight", 0.3, -1.0, 1.5, per_input=True), Parameter("density", 0.5, 0.1, 1.0, per_input=True)]
ALLOWED = {"density": (0.0, 1.0), "weight": (-math.inf, math.inf)}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study.create(tmp_path / "s", {}, {})
    record_coordinates(study, Uniform(LAYOUT, ("math", "sort"), PARAMETERS), ALLOWED)
    return study


HIGHEST = "weight[all, math]: 1.5 is the upper bound of [-1, 1.5]"
LOWEST = "weight[all, sort]: -1 is the lower bound of [-1, 1.5]"
SPARSEST = "density[all, math]: 0.1 is the lower bound of [0.1, 1]"
FULL = "density[all, sort]: 1 is the largest valid value"


@pytest.mark.parametrize(
    ("x", "ends"),
    [
        ([0.5, 0.5, 0.5, 0.5], []),
        ([0.98, 0.02, 0.98, 0.98], []),
        ([1.0, 0.5, 0.5, 0.5], [HIGHEST]),
        ([0.5, 0.001, 0.5, 1.0], [LOWEST, FULL]),
        ([0.5, 0.5, 0.0, 0.999], [SPARSEST, FULL]),
        ([1.0, 0.0, 0.0, 1.0], [HIGHEST, LOWEST, SPARSEST, FULL]),
    ],
)
def test_which_ends_are_named(study: Study, x: list[float], ends: list[str]) -> None:
    assert [str(end) for end in range_ends(study, np.array(x))] == ends


def test_only_what_can_be_widened_is_advised_to_be(study: Study) -> None:
    several, natural = (range_ends(study, np.array(x)) for x in ([1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 1.0]))
    assert ends_text(several, 4) == (
        f"at a bound of 4 of 4 search ranges ({HIGHEST}; {LOWEST}; {SPARSEST}; and 1 more)"
        ": widen `ranges` to search beyond"
    )
    assert ends_text(natural, 4) == f"at a bound of 1 of 4 search ranges ({FULL})"
    assert ends_text((), 4) == ""


def test_a_ledger_that_does_not_know_its_coordinates_names_none(tmp_path: Path) -> None:
    assert range_ends(Study.create(tmp_path / "old", {}, {}), np.ones(4)) == ()


def test_weights_that_share_a_sum_have_no_range_to_widen(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", {}, {})
    record_coordinates(study, Simplex(LAYOUT, ("math", "sort"), PARAMETERS[:1], groups="uniform"), ALLOWED)
    assert range_ends(study, np.array([1.0])) == ()


def test_of_many_coordinates_only_what_is_hardly_chance_is_named(tmp_path: Path) -> None:
    wide = Layerwise(
        Layout.from_names([f"model.layers.{n}.mlp.up_proj.weight" for n in range(100)]), ("math",), PARAMETERS[:1]
    )
    study = Study.create(tmp_path / "s", {}, {})
    record_coordinates(study, wide, ALLOWED)
    rng = np.random.default_rng(0)
    found = [len(range_ends(study, rng.random(wide.dimension))) for _ in range(200)]
    assert np.mean(found) < 0.5
    x = np.full(wide.dimension, 0.5)
    x[3] = 1.0
    assert [end.name for end in range_ends(study, x)] == [wide.names[3]]


TABLE: Table = {
    "parent:a": {"a": 0.5},
    "uniform": {"a": 0.6},
    **{f"x{n}": {"a": 0.7} for n in (50, 99, 100)},
}


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (
            "x100",
            "lies at a bound of 1 of 1 search ranges (weight[all, math]: 1.5 is the upper bound of [-1, 1.5]): widen",
        ),
        (
            "x50",
            "Most of the 3 finalists lie at a bound of a search range (2 at weight[all, math]: 1.5 is the upper bound",
        ),
        ("uniform", "Most of the 3 finalists lie at a bound"),
    ],
)
def test_the_verdict_names_the_ends_of_the_winner_or_of_most_finalists(tmp_path: Path, best: str, said: str) -> None:
    objective = Objective({"a": 1.0})
    study, executor = searched(tmp_path / "s", objective, {**TABLE, f"select/{best}": {"a": 0.9}})
    record_coordinates(study, Uniform(LAYOUT, ("math",), PARAMETERS[:1]), ALLOWED)
    assert select(study, executor, objective, None).kind == "done"
    found = selection(study, objective)
    assert said in found.verdict
    assert len(selection_to_dict(found)["range_ends"]) == (best == "x100")


def test_a_baseline_at_an_end_that_the_winner_does_not_beat_is_named(tmp_path: Path) -> None:
    objective = Objective({"a": 1.0})
    study, executor = searched(tmp_path / "s", objective, {"parent:a": {"a": 0.2}, "x50": {"a": 0.9}}, n_examples=100)
    record_coordinates(study, Uniform(LAYOUT, ("math",), PARAMETERS[:1]), ALLOWED)
    assert select(study, executor, objective, None).kind == "done"
    assert "range" not in selection(study, objective).verdict
    for split in ("select", "report"):
        first = next(e for e in study.told if e.trial.split == split and e.trial.merge is None)
        assert first.outcome is not None
        grid = baseline("task_arithmetic:1").changed(x=np.array([1.0]), number=study.next_number, split=split)
        study.ask(grid)
        study.tell(first.outcome.changed(number=grid.number), first.losses)
    assert (
        f"task_arithmetic:1 lies at a bound of 1 of 1 search ranges ({HIGHEST})" in selection(study, objective).verdict
    )


def test_status_names_the_ends_of_the_best_candidate(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    assert status(Run.of(study))["range_ends"] == ""
    record_coordinates(study, Uniform(LAYOUT, ("math",), PARAMETERS[:1]), ALLOWED)
    assert status(Run.of(study))["range_ends"] == "", "the best one lies in the middle"
    tell(study, Trial(8, np.array([1.0])), [1.0] * 4, [0.0] * 4)
    said = f"at a bound of 1 of 1 search ranges ({HIGHEST}): widen `ranges` to search beyond"
    assert status(Run.of(study))["range_ends"] == said
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(render(status(Run.of(study))))
    assert f"the best merge is {said}" in console.export_text()
