"""The contract kit of optimizers: subclass `OptimizerContract`, name the plug-in, inherit the tests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from evomerge.optimizers.base import Exhausted, FloatArray, Observation, Optimizer, OptimizerError, Proposal
from evomerge.statistics.pareto import hypervolume, non_dominated
from tests.contracts.other_process import OtherProcess


@dataclass(frozen=True, eq=False)
class Ask:
    """An ask of a simulated run and its answer."""

    number: int
    pending: Mapping[int, FloatArray]
    x: FloatArray


def quadratic(x: FloatArray, n_objectives: int) -> FloatArray:
    """One bowl per objective, each with another minimum."""
    centres = np.linspace(0.2, 0.8, n_objectives + 1)[:n_objectives]
    return np.array([np.mean((x - centre) ** 2) for centre in centres])


def simulate(optimizer: Optimizer, slots: int, n_trials: int) -> list[Ask | Observation]:
    """Asks and tells of a run: three baselines, then proposals with `slots` of them under way.

    With several slots, trials end out of order. Every seventh trial fails and one is never told.
    """
    rng = np.random.default_rng(slots)
    events: list[Ask | Observation] = []
    running: dict[int, FloatArray] = {}

    def tell(number: int, x: FloatArray, proposed: bool) -> None:
        losses = None if number % 7 == 2 else quadratic(x, optimizer.n_objectives)
        observation = Observation(number, x, losses, proposed)
        optimizer.tell(observation)
        events.append(observation)

    for number in range(3):
        tell(number, rng.random(optimizer.dimension), proposed=False)
    for number in range(3, n_trials):
        x = optimizer.ask(number, dict(running)).x
        events.append(Ask(number, dict(running), x))
        running[number] = x
        if len(running) == slots:
            done = int(rng.choice(sorted(running)))
            x = running.pop(done)
            if done != 5:
                tell(done, x, proposed=True)
    return events


def taught(optimizer: Optimizer, n: int) -> list[Observation]:
    """Candidates of an earlier study, that an optimizer is told before its own: under negative numbers."""
    rng = np.random.default_rng(11)
    points = [rng.random(optimizer.dimension) for _ in range(n)]
    seen = [Observation(-1 - k, x, quadratic(x, optimizer.n_objectives), proposed=False) for k, x in enumerate(points)]
    for each in seen:
        optimizer.tell(each)
    return seen


def asked(events: list[Ask | Observation]) -> list[list[float]]:
    """The points of a run, in the order of asking."""
    return [event.x.tolist() for event in events if isinstance(event, Ask)]


class OptimizerContract:
    """What every optimizer promises."""

    plugin: ClassVar[type[Optimizer]]
    #: options given to the plug-in in every test
    options: ClassVar[Mapping[str, Any]] = {}
    #: (dimension, n_objectives) to test; those with fewer or more objectives than the plug-in handles are left out
    shapes: ClassVar[tuple[tuple[int, int], ...]] = ((1, 1), (7, 1), (56, 1), (7, 2), (7, 3))
    #: trials of a simulated run
    n_trials: ClassVar[int] = 30
    #: whether it claims to beat random search, and the trials it gets to show it
    learns: ClassVar[bool] = False
    #: the same for fronts of two objectives
    learns_fronts: ClassVar[bool] = False
    #: whether points that it did not propose change what it proposes
    follows_baselines: ClassVar[bool] = True
    budget: ClassVar[int] = 100
    learning_dimension: ClassVar[int] = 7
    #: of the run that is repeated in another process
    fingerprint_dimension: ClassVar[int] = 7

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "shape" in metafunc.fixturenames:
            cls = metafunc.cls
            least, most = cls.plugin.min_objectives, cls.plugin.max_objectives
            shapes = [s for s in cls.shapes if least <= s[1] and (most is None or s[1] <= most)]
            metafunc.parametrize("shape", shapes, ids=[f"{d}d-{m}" for d, m in shapes])

    def make(self, shape: tuple[int, int], seed: int = 0, start: FloatArray | None = None) -> Optimizer:
        return self.plugin(*shape, seed, start, **self.options)

    def experienced(self, shape: tuple[int, int], seed: int = 0) -> Optimizer:
        """An optimizer in the middle of a run."""
        optimizer = self.make(shape, seed)
        simulate(optimizer, 1, self.n_trials)
        return optimizer

    def test_points_lie_in_the_cube(self, shape: tuple[int, int]) -> None:
        corner = np.resize([1.0, 0.0, 0.5], shape[0])
        events = simulate(self.make(shape, start=corner), 1, self.n_trials)
        points = [event.x for event in events if isinstance(event, Ask)]
        assert points
        for x in points:
            assert isinstance(x, np.ndarray)
            assert x.dtype == np.float64
            assert x.shape == (shape[0],)
            assert 0.0 <= x.min() <= x.max() <= 1.0

    def test_same_seed_same_points(self, shape: tuple[int, int]) -> None:
        first = asked(simulate(self.make(shape), 1, self.n_trials))
        assert asked(simulate(self.make(shape), 1, self.n_trials)) == first

    def test_another_seed_gives_other_points(self, shape: tuple[int, int]) -> None:
        n = self.n_trials
        assert self.experienced(shape).ask(n).x.tolist() != self.experienced(shape, seed=1).ask(n).x.tolist()
        # The first points may be given (a start, every model alone): the tenth is not.
        assert _begun(self.make(shape)) != _begun(self.make(shape, seed=1))

    def test_another_process_and_hash_seed_give_the_same_points(self, other_process: OtherProcess) -> None:
        assert other_process.fingerprint(type(self)) == self.fingerprint(threads=1)

    def fingerprint(self, threads: int) -> str:
        """The points of a run with three trials at a time, as JSON."""
        shape = (self.fingerprint_dimension, self.plugin.min_objectives)
        return json.dumps(asked(simulate(self.make(shape), 3, self.n_trials)))

    @pytest.mark.parametrize("slots", [1, 3])
    def test_resume_goes_on_exactly_where_it_stopped(self, shape: tuple[int, int], slots: int) -> None:
        """Asks are not replayed: what was told is the whole state, after any event of a run."""
        events = simulate(self.make(shape), slots, self.n_trials)
        for position, event in enumerate(events):
            if isinstance(event, Ask):
                resumed = self.make(shape)
                for earlier in events[:position]:
                    if isinstance(earlier, Observation):
                        resumed.tell(earlier)
                again = resumed.ask(event.number, event.pending).x
                assert again.tolist() == event.x.tolist(), f"trial {event.number} differs after a resume"

    def test_asking_leaves_no_trace(self, shape: tuple[int, int]) -> None:
        optimizer = self.experienced(shape)
        n = self.n_trials
        x = optimizer.ask(n).x.tolist()
        optimizer.ask(n + 2, {n + 1: np.zeros(shape[0])})
        optimizer.ask(n + 1)
        assert optimizer.ask(n).x.tolist() == x

    def test_numbers_give_distinct_points(self, shape: tuple[int, int]) -> None:
        """Slots that ask one after the other, without tells in between, must not evaluate the same point."""
        for optimizer in (self.make(shape), self.experienced(shape)):
            pending: dict[int, FloatArray] = {}
            for number in range(100, 106):
                pending[number] = optimizer.ask(number, dict(pending)).x
            assert len({tuple(x.tolist()) for x in pending.values()}) == 6

    def test_no_candidate_is_asked_for_twice(self, shape: tuple[int, int]) -> None:
        """All losses are least in one corner, which a baseline has told, and only coarse steps make a difference."""
        optimizer = self.make((min(shape[0], self.learning_dimension), shape[1]))
        optimizer.identify(_coarse)
        corner = np.zeros(optimizer.dimension)
        known: set[bytes] = set()
        running: dict[int, FloatArray] = {}
        for number, x in enumerate((corner, corner + 0.9, corner + 0.6)):
            optimizer.tell(Observation(number, x, _from_the_corner(x, shape[1]), proposed=False))
            known.add(_coarse(x))
        assert optimizer.knows(corner + 0.01)
        for number in range(3, 18):
            if not optimizer.wants(running):
                break
            try:
                x = optimizer.ask(number, running).x
            except Exhausted:
                assert len(known) >= 0.8 * (STEPS + 1) ** optimizer.dimension
                break
            assert _coarse(x) not in known, f"trial {number} repeats an earlier one"
            known.add(_coarse(x))
            running[number] = x
            if len(running) > 1:
                done, x = running.popitem()
                losses = None if number % 7 == 2 else _from_the_corner(x, shape[1])
                optimizer.tell(Observation(done, x, losses))
        with pytest.raises(OptimizerError):
            optimizer.identify(_coarse)

    def test_it_learns_from_candidates_of_an_earlier_study(self) -> None:
        """None is asked for again, and the same search follows from them: another one than without, if it learns."""
        shape, n_trials = (self.fingerprint_dimension, self.plugin.min_objectives), 16
        optimizer, resumed = self.make(shape), self.make(shape)
        known = {tuple(seen.x.tolist()) for seen in taught(optimizer, 20)}
        events = simulate(optimizer, 1, n_trials)
        assert known.isdisjoint(map(tuple, asked(events)))
        last = max(place for place, event in enumerate(events) if isinstance(event, Ask))
        taught(resumed, 20)
        for event in events[:last]:
            if isinstance(event, Observation):
                resumed.tell(event)
        again = events[last]
        assert isinstance(again, Ask)
        assert resumed.ask(again.number, again.pending).x.tolist() == again.x.tolist()
        if (self.learns or self.learns_fronts) and self.follows_baselines:
            assert asked(events) != asked(simulate(self.make(shape), 1, n_trials))

    def test_any_pending_points_are_accepted(self, shape: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        for optimizer in (self.make(shape), self.experienced(shape)):
            for numbers in ((), (200,), (201, 300), (190, 191, 192, 193)):
                x = optimizer.ask(250, {number: rng.random(shape[0]) for number in numbers}).x
                assert x.shape == (shape[0],)
        with pytest.raises(OptimizerError):
            optimizer.ask(250, {200: np.full(shape[0], 1.5)})

    def test_tells_come_in_any_order_and_some_never(self, shape: tuple[int, int]) -> None:
        optimizer = self.make(shape)
        points = {number: optimizer.ask(number).x for number in range(self.n_trials)}
        for number in reversed(range(0, self.n_trials, 2)):
            optimizer.tell(Observation(number, points[number], quadratic(points[number], shape[1])))
        optimizer.ask(self.n_trials)
        optimizer.tell(Observation(1, points[1], quadratic(points[1], shape[1])))
        optimizer.ask(self.n_trials)

    def test_a_trial_is_told_once(self, shape: tuple[int, int]) -> None:
        optimizer = self.experienced(shape)
        before = optimizer.ask(self.n_trials).x.tolist()
        x = np.full(shape[0], 0.5)
        with pytest.raises(OptimizerError):
            optimizer.tell(Observation(3, x, np.zeros(shape[1])))
        with pytest.raises(OptimizerError):
            optimizer.tell(Observation(2, x, None))
        with pytest.raises(OptimizerError):
            optimizer.ask(3)
        assert optimizer.ask(self.n_trials).x.tolist() == before

    def test_failures_are_survived_anywhere(self, shape: tuple[int, int]) -> None:
        optimizer = self.make(shape)
        for number in range(self.n_trials):
            optimizer.tell(Observation(number, optimizer.ask(number).x, None))
        last = optimizer.ask(self.n_trials).x
        optimizer.tell(Observation(self.n_trials, last, quadratic(last, shape[1])))
        for number in range(self.n_trials + 1, 2 * self.n_trials):
            x = optimizer.ask(number).x
            optimizer.tell(Observation(number, x, None if number % 3 else quadratic(x, shape[1])))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_only_finite_losses_are_taken(self, shape: tuple[int, int], bad: float) -> None:
        optimizer = self.experienced(shape)
        n = self.n_trials
        before = optimizer.ask(n).x.tolist()
        losses = np.zeros(shape[1])
        losses[-1] = bad
        with pytest.raises(OptimizerError):
            optimizer.tell(Observation(n + 1, np.full(shape[0], 0.5), losses))
        assert optimizer.ask(n).x.tolist() == before

    def test_wrong_shapes_are_refused(self, shape: tuple[int, int]) -> None:
        optimizer = self.make(shape)
        with pytest.raises(OptimizerError):
            optimizer.tell(Observation(0, np.full(shape[0], 0.5), np.zeros(shape[1] + 1)))
        with pytest.raises(OptimizerError):
            optimizer.tell(Observation(0, np.full(shape[0] + 1, 0.5), np.zeros(shape[1])))
        with pytest.raises(OptimizerError):
            optimizer.tell(Observation(0, np.full(shape[0], -0.1), np.zeros(shape[1])))
        if self.plugin.max_objectives is not None:
            with pytest.raises(OptimizerError):
                self.make((shape[0], self.plugin.max_objectives + 1))
        with pytest.raises(OptimizerError):
            self.make((shape[0], self.plugin.min_objectives - 1))

    def test_arguments_stay_the_callers(self, shape: tuple[int, int]) -> None:
        """Nothing given is changed, and changing it afterwards changes nothing."""
        start, x, losses = np.full(shape[0], 0.4), np.full(shape[0], 0.6), np.full(shape[1], 0.3)
        untouched, touched = self.make(shape, start=start.copy()), self.make(shape, start=start)
        for number in range(self.n_trials):
            share, left = (number + 1) / self.n_trials, self.n_trials - number
            untouched.tell(Observation(number, x * share, losses * left))
            given = Observation(number, x * share, losses * left)
            copies = given.x.copy(), given.losses.copy()
            touched.tell(given)
            assert given.x.tolist() == copies[0].tolist()
            assert given.losses.tolist() == copies[1].tolist()
            given.x[:] = 0.0
            given.losses[:] = 0.0
        start[:] = 0.0
        pending = {500: np.full(shape[0], 0.7), 499: np.full(shape[0], 0.2)}
        answers = [optimizer.ask(600, pending).x.tolist() for optimizer in (untouched, touched)]
        assert answers[0] == answers[1]
        assert list(pending) == [500, 499]
        assert [point.tolist() for point in pending.values()] == [[0.7] * shape[0], [0.2] * shape[0]]

    def test_beats_random_search(self) -> None:
        """On a noisy bowl, judged by the true loss of the best observed point; medians over three seeds."""
        if not self.learns:
            pytest.skip("does not claim to learn")
        dimension = self.learning_dimension
        ours, random = [], []
        for seed in range(3):
            optimum = np.random.default_rng(seed).uniform(0.2, 0.8, dimension)
            optimizer = self.make((dimension, 1), seed)
            ours.append(_best_true_loss(optimizer, optimum, self.budget))
            random.append(_best_true_loss(_Uniform(dimension, 1, seed), optimum, self.budget))
        assert np.median(ours) < 0.6 * np.median(random)

    def test_covers_more_than_random_search(self) -> None:
        """On two noisy bowls, judged by the true losses of the observed front; medians over three seeds."""
        if not self.learns_fronts:
            pytest.skip("does not claim to learn fronts")
        shape = (self.learning_dimension, 2)
        ours = [covered(self.make(shape, seed), self.budget, seed) for seed in range(3)]
        random = [covered(_Uniform(*shape, seed), self.budget, seed) for seed in range(3)]
        assert np.median(ours) > 1.2 * np.median(random)


#: Steps of a coordinate that make another candidate.
STEPS = 4


def _coarse(x: FloatArray) -> bytes:
    return np.round(STEPS * x).astype(np.int64).tobytes()


def _from_the_corner(x: FloatArray, n_objectives: int) -> FloatArray:
    return np.array([np.mean(x ** (1 + objective)) for objective in range(n_objectives)])


class _Uniform(Optimizer):
    """Random search, to compare with."""

    max_objectives = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._rng(number).random(self.dimension))

    def _tell(self, observation: Observation) -> None:
        pass


def _begun(optimizer: Optimizer) -> list[list[float]]:
    """Ten points, without a tell in between."""
    pending: dict[int, FloatArray] = {}
    for number in range(10):
        pending[number] = optimizer.ask(number, dict(pending)).x
    return [x.tolist() for x in pending.values()]


def _best_true_loss(optimizer: Optimizer, optimum: FloatArray, budget: int) -> float:
    noise = np.random.default_rng(budget)
    results = []
    for number in range(budget):
        x = optimizer.ask(number).x
        true = float(np.mean((x - optimum) ** 2))
        observed = true + 0.002 * noise.standard_normal()
        optimizer.tell(Observation(number, x, np.array([observed])))
        results.append((observed, true))
    return min(results)[1]


def covered(optimizer: Optimizer, budget: int, seed: int) -> float:
    """The hypervolume, within losses of 0.1, of the true losses of what looks like the front after `budget` trials.

    Losses are those of `quadratic` with noise; a search that ends by itself is not asked further.
    """
    noise = np.random.default_rng(seed)
    true, observed = [], []
    for number in range(budget):
        if not optimizer.wants({}):
            break
        x = optimizer.ask(number).x
        true.append(quadratic(x, optimizer.n_objectives))
        observed.append(true[-1] + 0.002 * noise.standard_normal(optimizer.n_objectives))
        optimizer.tell(Observation(number, x, observed[-1]))
    front = non_dominated(np.array(observed))
    return hypervolume(np.array(true)[front], np.full(optimizer.n_objectives, 0.1))
