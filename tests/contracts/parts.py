"""The contract kit of optimizers that ask for parts of candidates or for gradients.

Subclass `PartsContract`, name the plug-in, inherit the tests.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from evomerge.optimizers.base import (
    Exhausted,
    FloatArray,
    Measures,
    Observation,
    Optimizer,
    OptimizerError,
    Proposal,
    TaskExamples,
)
from tests.contracts.other_process import OtherProcess

#: What a forward and a backward pass cost, in forward passes.
GRADIENT_COST = 3
#: Steps of a coordinate that make another candidate, where points are identified coarsely.
STEPS = 4


class World:
    """Tasks whose examples each have an optimum near that of their task; an example is wrong beyond its threshold."""

    sizes = (180, 90)
    shares = (0.5, 0.5)

    def __init__(self, dimension: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dimension = dimension
        self.optimum = rng.uniform(0.2, 0.8, dimension)
        self.optima = [self.optimum + 0.05 * rng.standard_normal((n, dimension)) for n in self.sizes]
        self._limits = [rng.uniform(0.0, 0.15, n) for n in self.sizes]

    @property
    def measures(self) -> Measures:
        tasks = zip(self.sizes, self.shares, strict=True)
        return Measures(tuple(TaskExamples(f"task{m}", size, share) for m, (size, share) in enumerate(tasks)))

    def wrong(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """1 for every wrong example, by task."""
        losses = (np.mean((x - optima) ** 2, axis=1) for optima in self.optima)
        return tuple((loss > limit).astype(np.float64) for loss, limit in zip(losses, self._limits, strict=True))

    def gradient(self, proposal: Proposal) -> FloatArray:
        found = np.zeros(self.dimension)
        assert proposal.rows is not None
        assert proposal.gradient is not None
        for optima, rows, weight in zip(self.optima, proposal.rows, proposal.gradient, strict=True):
            if rows:
                found += weight * np.mean(2 * (proposal.x - optima[list(rows)]) / self.dimension, axis=0)
        return found

    def observed(
        self, number: int, proposal: Proposal, *, n_objectives: int, fails: bool = False, proposed: bool = True
    ) -> Observation:
        """What the loop tells of a proposal: one loss, or one per task."""
        x, rows = proposal.x, proposal.rows
        wrong = self.wrong(x)
        if rows is None:
            by_task = np.array([of_task.mean() for of_task in wrong])
            losses = by_task if n_objectives > 1 else np.array([by_task @ self.shares])
            return Observation(number, x, None if fails else losses, proposed, () if fails else wrong)
        examples = tuple(w[list(of_task)] for w, of_task in zip(wrong, rows, strict=True))
        gradient = None if fails or proposal.gradient is None else self.gradient(proposal)
        return Observation(number, x, None, examples=() if fails else examples, rows=rows, gradient=gradient)

    def cost(self, proposal: Proposal, before: int) -> float:
        """In evaluations of the whole split; before: number of examples that the extended parts have scored."""
        size = sum(self.sizes) - before if proposal.rows is None else sum(map(len, proposal.rows))
        return size / sum(self.sizes) * (1 if proposal.gradient is None else GRADIENT_COST)


@dataclass(frozen=True, eq=False)
class Ask:
    """An ask of a simulated run and its answer."""

    number: int
    pending: Mapping[int, FloatArray]
    proposal: Proposal


@dataclass
class Run:
    """A simulated run: asks and tells in their order, its cost beyond the baselines, and whether it ended by itself."""

    events: list[Ask | Observation]
    cost: float = 0.0
    ended: bool = False

    @property
    def asks(self) -> list[Ask]:
        return [event for event in self.events if isinstance(event, Ask)]

    @property
    def told(self) -> dict[int, Observation]:
        return {event.number: event for event in self.events if isinstance(event, Observation)}

    @property
    def described(self) -> list[Any]:
        """All that was asked for, as plain values."""
        proposals = [ask.proposal for ask in self.asks]
        return [[p.x.tolist(), p.rows, p.extends, p.gradient] for p in proposals]


def simulate(
    optimizer: Optimizer,
    slots: int,
    n_trials: int,
    *,
    seed: int = 0,
    fails: Callable[[int], bool] = lambda number: number % 7 == 6,
    lost: int | None = 5,
    most: float = np.inf,
    earlier: int = 0,
) -> Run:
    """Candidates of an earlier study, two baselines, the start among them, then proposals.

    `slots` of these are under way and end out of order.

    fails: whether a trial fails. lost: number of a trial that is never told. most: evaluations to spend. earlier:
    number of candidates of an earlier study.
    """
    world, rng = World(optimizer.dimension, seed), np.random.default_rng(slots)
    run = Run([])
    running: dict[int, Proposal] = {}
    optimizer.inform(world.measures)

    def tell(number: int, proposal: Proposal, *, proposed: bool = True) -> None:
        fail = proposed and fails(number)
        for take in (optimizer.tell, run.events.append):  # each its own arrays
            take(world.observed(number, proposal, n_objectives=optimizer.n_objectives, fails=fail, proposed=proposed))

    for number in range(-earlier, 0):
        tell(number, Proposal(np.random.default_rng(-number).random(optimizer.dimension)), proposed=False)
    for number, x in enumerate((optimizer.start, rng.random(optimizer.dimension))):
        tell(number, Proposal(x), proposed=False)
    number = 2
    while number < n_trials and run.cost < most:
        pending = {each: proposal.x for each, proposal in running.items()}
        wanted = len(running) < slots and optimizer.wants(pending)
        if wanted:
            proposal = optimizer.ask(number, pending)
            run.events.append(Ask(number, pending, proposal))
            before = scored_by(run, proposal.extends)
            run.cost += world.cost(proposal, sum(map(len, before)))
            running[number] = proposal
            number += 1
        elif not running:
            run.ended = True
            break
        if running and (not wanted or len(running) == slots):
            done = int(rng.choice(sorted(running)))
            proposal = running.pop(done)
            if done != lost:
                tell(done, proposal)
    return run


def scored_by(run: Run, part: int | None) -> list[set[int]]:
    """The rows that a part and those that it extends have scored, by task."""
    proposals = {ask.number: ask.proposal for ask in run.asks}
    found: list[set[int]] = [set() for _ in World.sizes]
    while part is not None:
        for rows, of_task in zip(found, proposals[part].rows or (), strict=True):
            rows.update(of_task)
        part = proposals[part].extends
    return found


class PartsContract:
    """The promises of every optimizer that asks for parts or gradients."""

    plugin: ClassVar[type[Optimizer]]
    #: options given to the plug-in in every test
    options: ClassVar[Mapping[str, Any]] = {}
    dimensions: ClassVar[tuple[int, ...]] = (1, 7, 56)
    n_objectives: ClassVar[int] = 1
    #: trials of a simulated run
    n_trials: ClassVar[int] = 90
    #: trials of a run that are asked for again after each event
    n_resumed: ClassVar[int] = 60
    #: whether it ends by itself within `n_trials`
    ends: ClassVar[bool] = False
    #: whether it claims to beat random search at equal cost, in evaluations of the whole split
    learns: ClassVar[bool] = False
    budget: ClassVar[float] = 20.0
    learning_dimension: ClassVar[int] = 7

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "dimension" in metafunc.fixturenames:
            metafunc.parametrize("dimension", metafunc.cls.dimensions)

    def make(self, dimension: int, seed: int = 0, start: FloatArray | None = None) -> Optimizer:
        return self.plugin(dimension, self.n_objectives, seed, start, **self.options)

    def run(self, dimension: int, slots: int = 1, seed: int = 0, **given: Any) -> Run:
        return simulate(self.make(dimension, seed), slots, self.n_trials, **given)

    def test_it_says_that_it_asks_for_parts_and_needs_to_know_the_examples(self) -> None:
        assert self.plugin.uses_parts
        with pytest.raises(OptimizerError):
            self.make(3).ask(0)

    def test_points_lie_in_the_cube(self, dimension: int) -> None:
        corner = np.resize([1.0, 0.0, 0.5], dimension)
        run = simulate(self.make(dimension, start=corner), 1, self.n_trials)
        assert run.asks
        for ask in run.asks:
            x = ask.proposal.x
            assert x.dtype == np.float64
            assert x.shape == (dimension,)
            assert 0.0 <= x.min() <= x.max() <= 1.0

    @pytest.mark.parametrize("slots", [1, 3])
    def test_same_seed_same_proposals_and_another_seed_others(self, slots: int) -> None:
        first = self.run(7, slots).described
        assert self.run(7, slots).described == first
        assert self.run(7, slots, seed=1).described != first

    def test_another_process_and_hash_seed_give_the_same_proposals(self, other_process: OtherProcess) -> None:
        assert other_process.fingerprint(type(self)) == self.fingerprint(threads=1)

    def fingerprint(self, threads: int) -> str:
        """The proposals of a run with three trials at a time, as JSON."""
        return json.dumps(self.run(7, 3).described)

    @pytest.mark.parametrize("slots", [1, 3])
    def test_resume_goes_on_exactly_where_it_stopped(self, slots: int) -> None:
        """Asks are not replayed: what was told is the whole state, after any event of a run."""
        events = simulate(self.make(7), slots, self.n_resumed).events
        for position, event in enumerate(events):
            if isinstance(event, Ask):
                resumed = self.make(7)
                resumed.inform(World(7).measures)
                for earlier in events[:position]:
                    if isinstance(earlier, Observation):
                        resumed.tell(earlier)
                again = resumed.ask(event.number, event.pending)
                assert again.x.tolist() == event.proposal.x.tolist(), f"trial {event.number} differs after a resume"
                assert (again.rows, again.extends) == (event.proposal.rows, event.proposal.extends)
                assert again.gradient == event.proposal.gradient

    def test_it_learns_from_candidates_of_an_earlier_study(self) -> None:
        """None of them is a new candidate, and the same search follows from them."""
        run = self.run(7, 3, earlier=40)
        known = {tuple(told.x.tolist()) for told in run.told.values() if told.number < 0}
        assert len(known) == 40
        assert known.isdisjoint(tuple(ask.proposal.x.tolist()) for ask in run.asks)
        last = max(place for place, event in enumerate(run.events) if isinstance(event, Ask))
        resumed, again = self.make(7), run.events[last]
        resumed.inform(World(7).measures)
        for event in run.events[:last]:
            if isinstance(event, Observation):
                resumed.tell(event)
        assert isinstance(again, Ask)
        assert _described(resumed.ask(again.number, again.pending)) == _described(again.proposal)

    def test_asking_leaves_no_trace(self, dimension: int) -> None:
        optimizer = self.make(dimension)
        run = simulate(optimizer, 1, self.n_trials // 2)
        n = self.n_trials
        first = _described(optimizer.ask(n))
        if optimizer.wants({n + 1: np.zeros(dimension)}):
            optimizer.ask(n + 2, {n + 1: np.zeros(dimension)})
        optimizer.ask(n + 1)
        assert _described(optimizer.ask(n)) == first
        assert run.asks

    def test_rows_are_valid_and_distinct(self, dimension: int) -> None:
        parts = [ask.proposal for ask in self.run(dimension, 3).asks if ask.proposal.rows is not None]
        assert parts
        for part in parts:
            assert part.rows is not None
            assert len(part.rows) == len(World.sizes)
            assert sum(map(len, part.rows)) > 0
            for rows, size in zip(part.rows, World.sizes, strict=True):
                assert len(set(rows)) == len(rows), "an example twice"
                assert all(type(row) is int and 0 <= row < size for row in rows)
            if part.gradient is not None:
                assert len(part.gradient) == len(World.sizes)
                assert all(np.isfinite(weight) and weight >= 0 for weight in part.gradient)
                assert sum(part.gradient) > 0
                assert part.extends is None

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_part_goes_on_once_from_scores_of_the_same_point(self, slots: int) -> None:
        run = self.run(7, slots)
        proposals = {ask.number: ask.proposal for ask in run.asks}
        told_before: dict[int, Observation] = {}
        going_on: dict[int, int] = {}
        for event in run.events:
            if isinstance(event, Observation):
                told_before[event.number] = event
            elif event.proposal.extends is not None:
                part = event.proposal.extends
                assert part in told_before, f"trial {event.number} extends {part}, which was never told"
                assert told_before[part].rows is not None, "a whole trial is extended"
                assert told_before[part].examples, "a failed part is extended"
                assert proposals[part].gradient is None, "a gradient is extended"
                assert event.proposal.x.tolist() == told_before[part].x.tolist(), "a part of another point is extended"
                again = going_on.get(part)
                assert again not in told_before, f"trial {part} is extended twice"
                assert again not in event.pending, f"trial {part} is extended while it is extended"
                going_on[part] = event.number

    @pytest.mark.parametrize("slots", [1, 3])
    def test_no_example_is_scored_twice_and_only_whole_trials_score_the_last_ones(self, slots: int) -> None:
        run = self.run(7, slots)
        for ask in run.asks:
            before, rows = scored_by(run, ask.proposal.extends), ask.proposal.rows
            if rows is None or ask.proposal.gradient is not None:
                continue
            assert all(seen.isdisjoint(more) for seen, more in zip(before, rows, strict=True)), "an example twice"
            size = sum(map(len, before)) + sum(map(len, rows))
            assert size < sum(World.sizes), f"trial {ask.number} scores all examples, and is no candidate"

    @pytest.mark.parametrize("slots", [1, 3, 8])
    def test_candidates_are_finished_and_a_search_is_never_stuck(self, slots: int) -> None:
        run = self.run(7, slots)
        assert any(told.rows is None and told.losses is not None and told.proposed for told in run.told.values())
        assert run.ended == self.ends
        if not run.ended:
            assert len(run.asks) == self.n_trials - 2

    @pytest.mark.parametrize("every", [1, 2, 3])
    @pytest.mark.parametrize("slots", [1, 3])
    def test_failures_are_survived_anywhere(self, every: int, slots: int) -> None:
        run = self.run(7, slots, fails=lambda number: number % every == 0)
        assert run.ended or len(run.asks) == self.n_trials - 2

    def test_no_new_candidate_is_a_known_one(self) -> None:
        """Only coarse steps make a difference, so that most random points are known."""
        optimizer = self.make(2)
        optimizer.identify(_coarse)
        known = {_coarse(optimizer.start), _coarse(np.random.default_rng(3).random(2))}
        run = Run([])
        try:
            run = simulate(optimizer, 3, self.n_trials, lost=None)
        except Exhausted:
            return
        for ask in run.asks:
            if ask.proposal.extends is None and ask.proposal.gradient is None:
                key = _coarse(ask.proposal.x)
                assert key not in known, f"trial {ask.number} repeats an earlier candidate"
                known.add(key)

    def test_any_pending_points_are_accepted(self, dimension: int) -> None:
        rng = np.random.default_rng(0)
        fresh, experienced = self.make(dimension), self.make(dimension)
        fresh.inform(World(dimension).measures)
        simulate(experienced, 1, self.n_trials // 2)
        for optimizer in (fresh, experienced):
            for numbers in ((), (200,), (201, 300), (190, 191, 192, 193)):
                pending = {number: rng.random(dimension) for number in numbers}
                if optimizer.wants(pending):
                    assert optimizer.ask(250, pending).x.shape == (dimension,)

    def test_a_part_is_told_once(self) -> None:
        optimizer = self.make(7)
        run = simulate(optimizer, 1, self.n_trials // 2)
        part = next(told for told in run.told.values() if told.rows is not None)
        before = _described(optimizer.ask(self.n_trials))
        with pytest.raises(OptimizerError):
            optimizer.tell(part)
        with pytest.raises(OptimizerError):
            optimizer.ask(part.number)
        assert _described(optimizer.ask(self.n_trials)) == before

    def test_arguments_stay_the_callers(self) -> None:
        """Nothing given is changed, and changing it afterwards changes nothing."""
        run = self.run(7, lost=None)
        untouched, touched = self.make(7), self.make(7)
        for optimizer in (untouched, touched):
            optimizer.inform(World(7).measures)
        for position, told in enumerate(run.told.values()):
            untouched.tell(told)
            given = told.changed(
                x=np.array(told.x),
                examples=tuple(np.array(values) for values in told.examples),
                gradient=None if told.gradient is None else np.array(told.gradient),
            )
            arrays = [given.x, *given.examples, *([] if given.gradient is None else [given.gradient])]
            before = [array.tolist() for array in arrays]
            touched.tell(given)
            assert [array.tolist() for array in arrays] == before
            for array in arrays:
                array[:] = 0.25
            if position % 7 == 0 and untouched.wants({}):
                assert _described(untouched.ask(500)) == _described(touched.ask(500))

    def test_beats_random_search_at_equal_cost(self) -> None:
        """Judged by the distance of the best whole candidate from the optimum; medians over nine seeds."""
        if not self.learns:
            pytest.skip("does not claim to learn")
        ours, random = [], []
        for seed in range(9):
            world = World(self.learning_dimension, seed)
            ours.append(_best(self.make(world.dimension, seed), world, seed, self.budget))
            random.append(_best(_Uniform(world.dimension, 1, seed), world, seed, self.budget))
        assert np.median(ours) < 0.85 * np.median(random)


def _best(optimizer: Optimizer, world: World, seed: int, budget: float) -> float:
    """The mean squared distance from the optimum of the best whole candidate."""
    run = simulate(optimizer, 1, 100_000, seed=seed, most=budget, fails=lambda _: False, lost=None)
    whole = [told for told in run.told.values() if told.proposed and told.losses is not None]
    chosen = min(whole, key=lambda told: float(told.losses[0]) if told.losses is not None else np.inf)
    return float(np.mean((chosen.x - world.optimum) ** 2))


class _Uniform(Optimizer):
    """Random search, to compare with."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._rng(number).random(self.dimension))

    def _tell(self, observation: Observation) -> None:
        pass


def _described(proposal: Proposal) -> list[Any]:
    return [proposal.x.tolist(), proposal.rows, proposal.extends, proposal.gradient]


def _coarse(x: FloatArray) -> bytes:
    return np.round(STEPS * x).astype(np.int64).tobytes()
