"""The choice: finalists on select, winner on report, and a verdict that does not promise more than it saw."""

from pathlib import Path

import numpy as np
import pytest

from evaluators.base import Scores, split_of
from evomerge.bench import BenchSpec
from evomerge.budget import Budget
from evomerge.execution.serial import SerialExecutor
from evomerge.loop import search
from evomerge.merging.baselines import baselines
from evomerge.objective import Objective
from evomerge.optimizers.cma_es import CmaEs
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input, Merge, Recipe
from evomerge.results.finalists import FINALISTS
from evomerge.results.ranking import SelectionError
from evomerge.results.result import selection
from evomerge.results.select import select
from evomerge.study import Study
from evomerge.trial import Outcome, Trial
from tests.toys import write_toys

OBJECTIVE = Objective({"one": 1.0})


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> BenchSpec:
    base, experts = write_toys(tmp_path_factory.mktemp("toys"))
    inputs = tuple(Input(name, str(path)) for name, path in experts.items())
    recipe = Recipe(Input("base", str(base)), inputs, "task_arithmetic")
    task = PluginSpec("synthetic", {"n_examples": 600, "noise": "binomial"})
    return BenchSpec(recipe, PluginSpec("layerwise"), {"one": task})


def planned(spec: BenchSpec) -> list[Trial]:
    bench = spec()
    merges = baselines(spec.recipe, tuple(bench.model.tensors))
    return [Trial(0, bench.space.default(), label="start")] + [
        Trial(0, None, merge=merge, label=label) for label, merge in merges
    ]


@pytest.fixture
def searched(spec: BenchSpec, tmp_path: Path) -> tuple[Study, SerialExecutor, CmaEs]:
    study, executor = Study.create(tmp_path / "s", {}, {}), SerialExecutor(spec)
    space = spec().space
    optimizer = CmaEs(space.dimension, 1, 0, space.default())
    search(study, optimizer, executor, OBJECTIVE, planned(spec), Budget(trials=60))
    return study, executor, optimizer


def test_the_three_splits_never_share_an_example(searched: tuple[Study, SerialExecutor, CmaEs]) -> None:
    study, executor, optimizer = searched
    assert select(study, executor, OBJECTIVE, optimizer.recommend()).kind == "done"
    seen: dict[str, set[str]] = {"search": set(), "select": set(), "report": set()}
    for entry in study.told:
        assert entry.outcome is not None
        seen[entry.trial.split].update(entry.outcome.scores["one"].example_ids)
    assert not seen["search"] & seen["select"]
    assert not seen["search"] & seen["report"]
    assert not seen["select"] & seen["report"]
    assert sum(map(len, seen.values())) == 600
    assert all(split_of(i, (0.5, 0.2, 0.3)) == "report" for i in seen["report"])


def test_the_winner_is_the_best_merge_on_select(searched: tuple[Study, SerialExecutor, CmaEs]) -> None:
    study, executor, optimizer = searched
    select(study, executor, OBJECTIVE, optimizer.recommend())
    result = selection(study, OBJECTIVE)
    on_select = [e for e in study.told if e.trial.split == "select"]
    proposed = [e for e in on_select if e.trial.label.startswith("trial:")]
    assert len(proposed) in (FINALISTS, FINALISTS + 1), "the recommended point may be among the best, or comes on top"
    recommended = next(e.trial for e in study.told if e.trial.label.startswith("recommended"))
    assert f"trial:{recommended.number}" in {e.trial.label for e in proposed}
    merges = [e for e in on_select if not e.trial.label.startswith(("parent:", "base"))]
    best = min(merges, key=lambda e: (e.losses or (np.inf,))[0])
    assert result.winner.label == best.trial.label
    labels = [model.label for model in result.models]
    assert labels[0] == result.winner.label
    assert {"base", "parent:a", "uniform"} <= set(labels)
    assert result.looks == 1


def test_paired_differences_are_winner_minus_other(searched: tuple[Study, SerialExecutor, CmaEs]) -> None:
    study, executor, optimizer = searched
    select(study, executor, OBJECTIVE, optimizer.recommend())
    result = selection(study, OBJECTIVE)
    winner = result.models[0]
    for other in result.models[1:]:
        assert result.leads[other.label].mean == pytest.approx(winner.score.mean - other.score.mean)
        entry = next(e for e in study.told if (e.trial.split, e.trial.label) == ("report", other.label))
        assert entry.outcome is not None
        assert other.score.mean == pytest.approx(entry.outcome.scores["one"].mean)


def test_selecting_twice_scores_nothing_again(searched: tuple[Study, SerialExecutor, CmaEs]) -> None:
    study, executor, optimizer = searched
    select(study, executor, OBJECTIVE, optimizer.recommend())
    told = len(study.told)
    select(study, executor, OBJECTIVE, optimizer.recommend())
    assert len(study.told) == told


def test_more_search_selects_anew_and_counts_its_second_look(
    searched: tuple[Study, SerialExecutor, CmaEs], spec: BenchSpec
) -> None:
    study, executor, optimizer = searched
    select(study, executor, OBJECTIVE, optimizer.recommend())
    again = CmaEs(optimizer.dimension, 1, 0, spec().space.default())
    search(study, again, executor, OBJECTIVE, planned(spec), Budget(trials=140))
    select(study, executor, OBJECTIVE, again.recommend())
    chosen = [data for kind, data in study.events if kind == "selected"]
    assert [data["candidates"] for data in chosen] == [60, 140]
    result = selection(study, OBJECTIVE)
    assert result.winner.label == chosen[-1]["label"]
    assert result.looks == len({data["label"] for data in chosen})


def test_there_is_no_selection_before_the_end(searched: tuple[Study, SerialExecutor, CmaEs]) -> None:
    with pytest.raises(SelectionError, match="not finished"):
        selection(searched[0], OBJECTIVE)


def reported(folder: Path, winner: list[float], parent: list[float]) -> Study:
    """A study whose report split holds just these values."""
    recipe = Recipe(Input("base", "b"), (Input("a", "a"),), "task_arithmetic")
    table = {"all": ("*",)}, {"weight": np.array([[1.0]])}
    study = Study.create(folder, {}, {})
    study.event("selected", label="trial:3", candidates=1)
    from search_spaces.base import CoefficientTable

    merge = Merge(recipe, CoefficientTable(*table))
    trials = [
        (Trial(0, np.array([0.5]), label="trial:3", split="report"), winner),
        (Trial(1, None, merge=merge, label="parent:a", split="report"), parent),
    ]
    for trial, values in trials:
        study.ask(trial)
        ids = tuple(f"{i:016x}" for i in range(len(values)))
        study.tell(Outcome(trial.number, {"one": Scores(ids, np.array(values))}), [-float(np.mean(values))])
    return study


def test_a_clear_winner_is_called_one(tmp_path: Path) -> None:
    study = reported(tmp_path / "s", [1.0] * 60 + [0.0] * 40, [1.0] * 30 + [0.0] * 70)
    verdict = selection(study, OBJECTIVE).verdict
    assert "trial:3 beats the best-scoring parent, parent:a" in verdict
    assert "+30.0" in verdict


def test_an_unclear_winner_is_not(tmp_path: Path) -> None:
    values = [1.0] * 50 + [0.0] * 50
    study = reported(tmp_path / "s", [*values[:1], 1.0, *values[2:]], [0.0, *values[1:]])
    verdict = selection(study, OBJECTIVE).verdict
    assert "No merge was shown to be better than the best-scoring parent, parent:a," in verdict
    assert "Keep parent:a, or evaluate on at least" in verdict


def test_a_worse_winner_is_never_sold(tmp_path: Path) -> None:
    study = reported(tmp_path / "s", [0.0] * 90 + [1.0] * 10, [1.0] * 90 + [0.0] * 10)
    assert "No merge was shown to be better" in selection(study, OBJECTIVE).verdict


def test_replacing_a_label_keeps_the_trial(searched: tuple[Study, SerialExecutor, CmaEs]) -> None:
    study, executor, optimizer = searched
    select(study, executor, OBJECTIVE, optimizer.recommend())
    for entry in study.told:
        if entry.trial.label.startswith("trial:"):
            origin = study.entries[int(entry.trial.label.removeprefix("trial:"))].trial
            again = entry.trial.changed(number=origin.number, label=origin.label, split=origin.split)
            assert again.x is not None
            assert origin.x is not None
            np.testing.assert_array_equal(again.x, origin.x)
            assert again.seed == origin.seed
