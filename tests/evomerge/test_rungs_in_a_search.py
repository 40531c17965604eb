"""Searches by rungs: parts and what completes them are durable, cost what they read, and repeat after any kill."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from evomerge import plugins
from evomerge.bench import Bench, BenchSpec
from evomerge.budget import Budget, evaluations
from evomerge.execution.serial import SerialExecutor
from evomerge.feedback import measures_of, new_optimizer, record_measures, replay
from evomerge.loop import SAME_MODEL, search
from evomerge.objective import Objective
from evomerge.optimizers.base import Measures, Optimizer, TaskExamples
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input, Recipe
from evomerge.search_examples import SearchExamples, why_no_parts
from evomerge.study import Entry, Study
from evomerge.trial import CANARY, Outcome, Trial
from tests.toys import write_toys

OBJECTIVE = Objective({"one": 2.0, "two": 1.0})
NAMES = ("successive_halving", "hyperband", "asha", "dehb", "mobster")


class CountingBench:
    """A bench that counts the examples that it scores. seed: moves the optimum and the noise."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        base, experts = write_toys(folder)
        inputs = tuple(Input(name, str(path)) for name, path in experts.items())
        recipe = Recipe(Input("base", str(base)), inputs, "task_arithmetic")
        shape = {"noise": "binomial", "seed": seed, "curvature": 2.0}
        tasks = {
            "one": PluginSpec("synthetic", {"n_examples": 400, **shape}),
            "two": PluginSpec("synthetic", {"n_examples": 200, "task": 1, **shape}),
        }
        self.bench: Bench = BenchSpec(recipe, PluginSpec("layerwise"), tasks, split=(0.9, 0.05, 0.05))()
        self.space = self.bench.space
        found = self.bench.run(Trial(0, self.space.default(), label="start")).scores
        self.examples = SearchExamples({task: scores.example_ids for task, scores in found.items()})
        self.scored = 0

    def run(self, trial: Trial) -> Outcome:
        outcome = self.bench.run(trial)
        self.scored += sum(len(scores.values) for scores in outcome.scores.values())
        return outcome

    @property
    def measures(self) -> Measures:
        shares = zip(OBJECTIVE.weights, OBJECTIVE.shares, strict=True)
        tasks = tuple(TaskExamples(task, len(self.examples.ids[task]), float(share)) for task, share in shares)
        return Measures(tasks, no_parts=why_no_parts(OBJECTIVE))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> CountingBench:
    return CountingBench(tmp_path_factory.mktemp("toys"))


def made(name: str, bench: CountingBench, seed: int = 3) -> Optimizer:
    kind: type[Optimizer] = plugins.load("optimizer", name, Optimizer)
    return new_optimizer(
        PluginSpec(name),
        OBJECTIVE,
        dimension=bench.space.dimension,
        seed=seed,
        start=bench.space.default(),
        measures=bench.measures if kind.uses_parts else None,
    )


def run(folder: Path, bench: CountingBench, name: str, trials: float, seed: int = 3) -> tuple[Study, Optimizer]:
    study = Study.open(folder) if (folder / "ledger.jsonl").exists() else Study.create(folder, {}, {})
    start = bench.space.default()
    planned = [Trial(0, start, label=CANARY, seed=seed), Trial(0, start, label="start", seed=seed)]
    optimizer = made(name, bench, seed)
    with closing(SerialExecutor(lambda: bench)) as executor, closing(study):
        record_measures(study, bench.measures)
        budget = Budget(trials=trials)  # type: ignore[arg-type]
        search(study, optimizer, executor, OBJECTIVE, planned, budget, seed=seed, examples=bench.examples)
    return study, optimizer


def records(study: Study) -> list[tuple[object, ...]]:
    """What a study holds of its trials, but for times."""
    return [
        (
            entry.trial.number,
            entry.trial.extends,
            entry.trial.cost,
            entry.trial.x.tobytes() if entry.trial.x is not None else None,
            entry.losses,
            {t: (s.example_ids, s.values.tolist()) for t, s in (entry.outcome.scores if entry.outcome else {}).items()},
        )
        for entry in study.ended
    ]


#: Evaluations of the searches that are compared with others.
TRIALS = 7


@dataclass
class Finished:
    """A search that was not interrupted, and the number of examples that it scored."""

    name: str
    study: Study
    optimizer: Optimizer
    scored: int


@pytest.fixture(scope="module", params=NAMES)
def finished(
    request: pytest.FixtureRequest, bench: CountingBench, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    before = bench.scored
    study, optimizer = run(tmp_path_factory.mktemp("finished") / "s", bench, request.param, TRIALS)
    return Finished(request.param, study, optimizer, bench.scored - before)


def completing(study: Study) -> list[Entry]:
    """The trials that scored all that earlier parts had left."""
    return [entry for entry in study.told if entry.trial.extends is not None]


def test_a_search_that_is_cut_anywhere_goes_on_as_if_it_had_not_been(
    finished: Finished, bench: CountingBench, tmp_path: Path
) -> None:
    for trials in (1.3, 2.6, 5.5, TRIALS):
        cut, _ = run(tmp_path / "cut", bench, finished.name, trials)
    assert completing(cut)
    assert records(cut) == records(finished.study)


@pytest.mark.parametrize("last", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_trial_asked_before_a_crash_is_run_again_as_it_was(
    last: bool, finished: Finished, bench: CountingBench, tmp_path: Path
) -> None:
    """last: whether it scores all that is left, or the examples that one rung adds."""
    ended = finished.study.ended
    trial = next(e.trial for e in ended if e.trial.extends is not None and e.trial.is_part is not last)
    spent = sum(e.trial.cost for e in ended if e.trial.counts and e.trial.number < trial.number)
    run(tmp_path / "cut", bench, finished.name, spent)
    with closing(Study.open(tmp_path / "cut")) as study:
        assert study.next_number == trial.number
        study.ask(trial)
    cut, _ = run(tmp_path / "cut", bench, finished.name, TRIALS)
    assert records(cut) == records(finished.study)


def test_a_replay_from_the_ledger_alone_proposes_what_the_search_would_have(
    finished: Finished, bench: CountingBench
) -> None:
    again = made(finished.name, bench)
    measures = measures_of(finished.study)
    examples = SearchExamples.of_study(finished.study, OBJECTIVE.weights)
    assert measures is not None
    again.inform(measures)
    replay(finished.study, again, OBJECTIVE, examples=examples)
    proposals = [each.ask(10_000) for each in (finished.optimizer, again)]
    assert proposals[0].x.tolist() == proposals[1].x.tolist()
    assert (proposals[0].rows, proposals[0].extends) == (proposals[1].rows, proposals[1].extends)


def test_the_budget_counts_every_example_that_was_scored_and_no_other(finished: Finished, bench: CountingBench) -> None:
    study = finished.study
    canary = next(entry for entry in study.ended if entry.trial.label == CANARY)
    assert canary.outcome is not None
    scored = finished.scored - sum(len(scores.values) for scores in canary.outcome.scores.values())
    assert evaluations(study) == pytest.approx(scored / bench.examples.total)
    assert TRIALS <= evaluations(study) < TRIALS + 1
    candidates = [e for e in (*study.entries.values(), *study.parts.values()) if e.trial.counts]
    assert sum(entry.trial.extends is None for entry in candidates) > TRIALS + 2


def test_finished_candidates_have_the_scores_of_one_trial_of_all_examples(
    finished: Finished, bench: CountingBench
) -> None:
    assert completing(finished.study)
    for entry in completing(finished.study):
        again = bench.bench.run(Trial(0, entry.trial.x, seed=3)).scores
        assert entry.outcome is not None
        assert entry.losses == tuple(OBJECTIVE.losses(again))
        for task, scores in entry.outcome.scores.items():
            assert scores.example_ids == bench.examples.ids[task]
            assert scores.values.tolist() == again[task].values.tolist()


def test_all_candidates_of_a_rung_are_compared_on_the_same_examples(bench: CountingBench, tmp_path: Path) -> None:
    study, _ = run(tmp_path / "s", bench, "hyperband", 9)
    seen: dict[int, set[tuple[str, ...]]] = {}
    for entry in study.parts.values():
        scored = bench.examples.scored(study, entry.trial.number)
        ids = tuple(sorted(name for scores in scored.values() for name in scores.example_ids))
        seen.setdefault(len(ids), set()).add(ids)
    assert {size: len(sets) for size, sets in seen.items()} == {round(bench.examples.total / n): 1 for n in (27, 9, 3)}
    parts = [task for entry in study.parts.values() for task in (entry.trial.examples or {})]
    assert set(parts) == {"one", "two"}


def test_a_candidate_that_turns_out_to_be_a_known_model_is_finished_with_its_scores(
    bench: CountingBench, tmp_path: Path
) -> None:
    """All trials count as the same model, so every one that scores all that is left is a copy of the start."""
    study = Study.create(tmp_path / "s", {}, {})
    start, optimizer = bench.space.default(), made("asha", bench)
    planned = [Trial(0, start, label="start", seed=3)]
    with closing(SerialExecutor(lambda: bench)) as executor, closing(study):
        search(
            study,
            optimizer,
            executor,
            OBJECTIVE,
            planned,
            Budget(trials=5),
            seed=3,
            same=lambda _: "one model",
            examples=bench.examples,
        )
    copies = completing(study)
    first = next(entry for entry in study.told if entry.trial.label == "start")
    assert copies
    assert first.outcome is not None
    for entry in copies:
        assert entry.outcome is not None
        assert [event["event"] for event in entry.outcome.events] == [SAME_MODEL]
        for task, scores in entry.outcome.scores.items():
            assert scores.values.tolist() == first.outcome.scores[task].values.tolist()


@dataclass
class Landscapes:
    """Five landscapes; the qualities that searches of equal cost find on them."""

    benches: list[CountingBench]
    folder: Path

    def found(self, name: str) -> list[float]:
        """The noiseless qualities of the best finished candidates by their scores."""
        qualities = []
        for seed, bench in enumerate(self.benches):
            study, _ = run(self.folder / f"{name}-{seed}", bench, name, 13, seed)
            whole = [e for e in study.told if e.trial.label == "search" and e.losses is not None]
            qualities.append(quality(bench, min(whole, key=lambda entry: entry.losses or ()).trial))
        return qualities


@pytest.fixture(scope="module")
def landscapes(tmp_path_factory: pytest.TempPathFactory) -> Landscapes:
    benches = [CountingBench(tmp_path_factory.mktemp("toys"), seed) for seed in range(5)]
    return Landscapes(benches, tmp_path_factory.mktemp("searches"))


@pytest.fixture(scope="module")
def random_search(landscapes: Landscapes) -> float:
    return float(np.median(landscapes.found("random")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_at_equal_cost_the_best_candidate_is_better_than_by_random_search(
    name: str, landscapes: Landscapes, random_search: float
) -> None:
    assert np.median(landscapes.found(name)) > random_search + 0.02


def quality(bench: CountingBench, trial: Trial) -> float:
    """The noiseless score of a candidate."""
    spec = bench.bench.spec
    tasks = {task: PluginSpec("synthetic", {**p.options, "noise": "none"}) for task, p in spec.tasks.items()}
    exact = BenchSpec(spec.recipe, spec.space, tasks, split=(1.0, 0.0, 0.0))()
    return -float(OBJECTIVE.losses(exact.run(Trial(0, trial.x)).scores)[0])
