"""Racing: clearly worse candidates are dropped early, survivors are scored in full, and a resume repeats it all."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.bench import Bench, BenchSpec
from evomerge.budget import Budget, evaluations
from evomerge.execution.serial import SerialExecutor
from evomerge.feedback import replay
from evomerge.loop import search
from evomerge.objective import Floor, Objective
from evomerge.optimizers.base import Observation, Optimizer
from evomerge.optimizers.cma_es import CmaEs
from evomerge.plugins import PluginSpec
from evomerge.racing import LEVELS, Race, RacingError, make_race
from evomerge.recipe import Input, Recipe
from evomerge.search_examples import SearchExamples
from evomerge.study import Entry, Study
from evomerge.trial import CANARY, Outcome, Trial
from tests.toys import write_toys

OBJECTIVE = Objective({"one": 2.0, "two": 1.0})
SEED = 3


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    base, experts = write_toys(tmp_path_factory.mktemp("toys"))
    inputs = tuple(Input(name, str(path)) for name, path in experts.items())
    recipe = Recipe(Input("base", str(base)), inputs, "task_arithmetic")
    tasks = {
        "one": PluginSpec("synthetic", {"n_examples": 400, "noise": "binomial"}),
        "two": PluginSpec("synthetic", {"n_examples": 200, "noise": "binomial", "task": 1}),
    }
    return BenchSpec(recipe, PluginSpec("layerwise"), tasks, split=(0.9, 0.05, 0.05))()


def examples_of(bench: Bench) -> SearchExamples:
    found = bench.run(Trial(0, bench.space.default(), label="start")).scores
    return SearchExamples({task: scores.example_ids for task, scores in found.items()})


def run(
    folder: Path, bench: Bench, trials: float, level: str | None = "aggressive", optimizer: type[Optimizer] = CmaEs
) -> tuple[Study, Optimizer]:
    study = Study.open(folder) if (folder / "ledger.jsonl").exists() else Study.create(folder, {}, {})
    start = bench.space.default()
    planned = [Trial(0, start, label=CANARY, seed=SEED), Trial(0, start, label="start", seed=SEED)]
    examples = examples_of(bench)
    race = Race(examples, OBJECTIVE, SEED, LEVELS[level]) if level else None
    made = optimizer(bench.space.dimension, 1, SEED, start)
    with closing(SerialExecutor(lambda: bench)) as executor, closing(study):
        budget = Budget(trials=int(trials))
        search(study, made, executor, OBJECTIVE, planned, budget, seed=SEED, examples=examples, race=race)
    return study, made


def records(study: Study) -> list[tuple[object, ...]]:
    return [
        (
            e.trial.number,
            e.trial.extends,
            e.trial.x.tobytes() if e.trial.x is not None else None,
            e.losses,
            {t: s.example_ids for t, s in (e.outcome.scores if e.outcome else {}).items()},
        )
        for e in study.ended
    ]


def test_many_candidates_cost_a_part_of_their_number_and_the_survivors_are_scored_in_full(
    bench: Bench, tmp_path: Path
) -> None:
    study, _ = run(tmp_path / "s", bench, 25)
    candidates = [e for e in study.parts.values() if e.trial.extends is None]
    assert len(candidates) > 60  # at the cost of 24
    assert evaluations(study) == pytest.approx(25, abs=1)
    survivors = [e for e in study.told if e.trial.extends is not None]
    assert survivors
    everything = examples_of(bench)
    for entry in survivors:
        assert entry.outcome is not None
        again = bench.run(Trial(0, entry.trial.x, seed=SEED)).scores
        for task, scores in entry.outcome.scores.items():
            assert scores.example_ids == everything.ids[task]
            assert scores.values.tolist() == again[task].values.tolist()
        assert entry.losses == tuple(OBJECTIVE.losses(again))


def test_parts_are_no_candidates_for_anyone_who_reads_the_study(bench: Bench, tmp_path: Path) -> None:
    study, _ = run(tmp_path / "s", bench, 10)
    assert study.parts
    assert study.parts.keys().isdisjoint(study.entries)
    whole = {task: len(ids) for task, ids in examples_of(bench).ids.items()}
    for entry in study.told:
        if entry.outcome is not None and entry.losses is not None:
            assert {task: len(scores.values) for task, scores in entry.outcome.scores.items()} == whole
    assert all(entry.losses is None for entry in study.parts.values())


def test_a_search_that_is_cut_anywhere_goes_on_as_if_it_had_not_been(bench: Bench, tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", bench, 12)
    for trials in (2, 3, 5, 9, 12):
        run(tmp_path / "cut", bench, trials)
    cut, _ = run(tmp_path / "cut", bench, 12)
    assert records(cut) == records(whole)


def test_a_part_asked_before_a_crash_is_run_again_as_it_was(bench: Bench, tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", bench, 8)
    run(tmp_path / "cut", bench, 5)
    with closing(Study.open(tmp_path / "cut")) as study:
        number = study.next_number
        study.ask(whole.asked(number).trial)
    cut, _ = run(tmp_path / "cut", bench, 8)
    assert records(cut) == records(whole)


def test_a_replay_tells_what_the_search_told(bench: Bench, tmp_path: Path) -> None:
    study, optimizer = run(tmp_path / "s", bench, 12)
    again = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    examples = SearchExamples.of_study(study, OBJECTIVE.weights)
    assert examples is not None
    replay(study, again, OBJECTIVE, race=Race(examples, OBJECTIVE, SEED, LEVELS["aggressive"]), examples=examples)
    assert again.ask(10_000).x.tolist() == optimizer.ask(10_000).x.tolist()


class _Listener(CmaEs):
    """Remembers what it is told."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.heard: list[Observation] = []

    def _tell(self, observation: Observation) -> None:
        self.heard.append(observation)
        super()._tell(observation)


def test_a_dropped_candidate_is_told_relative_to_the_incumbent_and_under_its_first_number(
    bench: Bench, tmp_path: Path
) -> None:
    study, optimizer = run(tmp_path / "s", bench, 12, optimizer=_Listener)
    assert isinstance(optimizer, _Listener)
    firsts = {e.trial.number for e in study.parts.values() if e.trial.extends is None}
    dropped = [told for told in optimizer.heard if told.share < 1]
    assert dropped
    assert {told.number for told in dropped} <= firsts
    errors = []
    for told in dropped:
        exact = OBJECTIVE.losses(bench.run(Trial(0, told.x, seed=SEED)).scores)[0]
        assert told.losses is not None
        errors.append(told.losses[0] - exact)
    assert np.mean(np.abs(errors)) < 0.08
    survivors = [told for told in optimizer.heard if told.proposed and told.share == 1]
    assert survivors[-1].number in firsts


def scored(number: int, values: dict[str, list[float]], ids: SearchExamples, **options: object) -> Entry:
    trial = Trial(number, np.full(3, number / 100), **options)  # type: ignore[arg-type]
    chosen = trial.examples or ids.ids
    outcome = Outcome(number, {t: Scores(tuple(chosen[t]), np.array(values[t])[: len(chosen[t])]) for t in chosen})
    return Entry(trial, outcome, told_at=0)


@pytest.mark.parametrize(("worse_by", "is_dropped"), [(0, False), (1, False), (4, True)])
def test_one_difference_is_no_certainty_and_a_loss_is_estimated_from_the_incumbents_full_score(
    worse_by: int, is_dropped: bool
) -> None:
    ids = SearchExamples({"one": tuple(f"{i:03}" for i in range(300))})
    race = Race(ids, Objective({"one": 1.0}), 0, 1.0)
    values = dict(zip(ids.ids["one"], np.random.default_rng(0).integers(0, 2, 300).tolist(), strict=True))
    race.take(scored(0, {"one": list(values.values())}, ids, label="start"))
    part = race.begin(Trial(1, np.zeros(3)))
    assert part.examples is not None
    right = [name for name in part.examples["one"] if values[name]]
    found = {**values, **dict.fromkeys(right[:worse_by], 0)}
    here = [found[name] for name in part.examples["one"]]
    dropped = race.take(scored(1, {"one": here}, ids, examples=part.examples))
    assert (dropped is not None) == is_dropped
    if dropped is not None:
        full = sum(values.values()) / 300
        assert dropped.losses.tolist() == pytest.approx([-(full - worse_by / 50)])
        assert sum(here) / 50 != pytest.approx(full - worse_by / 50)


def test_every_prefix_holds_the_tasks_in_proportion_and_every_task_in_its_own_order() -> None:
    ids = SearchExamples({"one": tuple(map(str, range(400))), "two": tuple(map(str, range(200)))})
    race = Race(ids, Objective({"one": 1.0, "two": 1.0}), 0, 1.0)
    race.take(scored(0, {"one": [1.0] * 400, "two": [1.0] * 200}, ids, label="start"))
    part = race.begin(Trial(1, np.zeros(3)))
    assert part.examples is not None
    assert {task: len(names) for task, names in part.examples.items()} == {"one": 33, "two": 17}
    assert part.cost == pytest.approx(50 / 600)
    assert list(part.examples["one"]) != list(map(str, range(33)))
    again = Race(ids, Objective({"one": 1.0, "two": 1.0}), 1, 1.0)
    again.take(scored(0, {"one": [1.0] * 400, "two": [1.0] * 200}, ids, label="start"))
    assert again.begin(Trial(1, np.zeros(3))).examples != part.examples


@pytest.mark.parametrize(
    ("objective", "n_examples", "why"),
    [
        (Objective({"one": 1.0}, kind="pareto"), 300, "which `objective: pareto` is not.* Set `racing: off`"),
        (Objective({"one": 1.0}, keep={"one": Floor(0.01)}), 300, "what `keep` asks of one needs all"),
        (Objective({"one": 1.0}, whole_model=frozenset({"one"})), 300, "one value per model"),
        (Objective({"one": 1.0}), 99, "at least 100 examples"),
    ],
)
def test_a_search_that_cannot_race_is_refused(objective: Objective, n_examples: int, why: str) -> None:
    ids = SearchExamples({"one": tuple(map(str, range(n_examples)))})
    with pytest.raises(RacingError, match=why):
        Race(ids, objective, 0, 1.0)


@pytest.mark.parametrize("optimizer", ["hyperband", "asha", "gradient", "cma_es"])
def test_optimizers_that_score_parts_of_candidates_by_themselves_hold_no_race(optimizer: str) -> None:
    ids = SearchExamples({"one": tuple(map(str, range(300)))})
    if optimizer in ("gradient", "cma_es"):
        assert make_race("safe", optimizer, ids, Objective({"one": 1.0}), 0) is not None
    else:
        with pytest.raises(RacingError, match=f"{optimizer} decides by itself.*Remove `racing`"):
            make_race("safe", optimizer, ids, Objective({"one": 1.0}), 0)


@pytest.mark.parametrize(("racing", "z"), [(None, LEVELS["safe"]), ("off", None), ("aggressive", LEVELS["aggressive"])])
def test_auto_races_by_itself_unless_the_search_file_says_otherwise(racing: str | None, z: float | None) -> None:
    ids = SearchExamples({"one": tuple(map(str, range(400)))})
    race = make_race(racing, "auto", ids, Objective({"one": 1.0}), 0)
    assert (None if race is None else race.z) == z
    assert make_race(None, "cma_es", ids, Objective({"one": 1.0}), 0) is None
