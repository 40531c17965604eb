"""The kit of optimizers that ask for parts catches what it is for: each optimizer here breaks one promise."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from evomerge.optimizers.base import Exhausted, FloatArray, Observation, Optimizer, OptimizerError, Proposal, Rows
from tests.contracts.other_process import OtherProcess
from tests.contracts.parts import PartsContract, World

#: The examples that every candidate is scored on first.
FIRST: Rows = (tuple(range(20)), tuple(range(10)))
#: Those that come next.
SECOND: Rows = (tuple(range(20, 60)), tuple(range(10, 30)))


class Sound(Optimizer):
    """Keeps every promise: random candidates on some examples, and the best fifth of them on more, then on all."""

    uses_parts: ClassVar[bool] = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._parts: dict[bytes, list[Observation]] = {}

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if self.measures is None:
            raise OptimizerError("Call `inform` first.")
        running = {self.key(x) for x in pending.values()}
        limit = np.quantile([_sum(parts[0]) for parts in self._parts.values()], 0.2) if self._parts else np.inf
        for key, parts in self._parts.items():
            if parts[-1].examples and key not in running and _sum(parts[0]) < limit and not self.knows(parts[0].x):
                last = parts[-1]
                return Proposal(last.x, rows=SECOND if len(parts) == 1 else None, extends=last.number)
        return Proposal(self._new(number, running), rows=FIRST)

    def _new(self, number: int, running: set[bytes]) -> FloatArray:
        rng = self._rng(number)
        for _ in range(100):
            x = rng.random(self.dimension)
            if self.key(x) not in {*running, *self._parts} and not self.knows(x):
                return x
        raise Exhausted("Nothing is new.")

    def _tell_part(self, observation: Observation) -> None:
        kept = observation.changed(examples=tuple(values.copy() for values in observation.examples))
        self._parts.setdefault(self.key(observation.x), []).append(kept)

    def _tell(self, observation: Observation) -> None:
        pass


def _sum(part: Observation) -> float:
    return float(np.concatenate(part.examples).sum()) if part.examples else 1e9


class Silent(Sound):
    """Does not say that it asks for parts."""

    uses_parts: ClassVar[bool] = False


class Presuming(Sound):
    """Asks for examples that do not exist."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return super()._ask(number, pending) if self.measures else Proposal(self.start, rows=FIRST)


class Outside(Sound):
    """Leaves the cube and passes by the base's check."""

    def ask(self, number: int, pending: Mapping[int, FloatArray] | None = None) -> Proposal:
        return replace(super().ask(number, pending), x=np.full(self.dimension, 2.0))


class Seedless(Sound):
    """The same points whatever the seed."""

    def _new(self, number: int, running: set[bytes]) -> FloatArray:
        return np.random.default_rng(number).random(self.dimension)


class Unsteady(Sound):
    """Other points in every run."""

    def _new(self, number: int, running: set[bytes]) -> FloatArray:
        return np.random.default_rng().random(self.dimension)


class HashOrder(Sound):
    """Goes through a set on the way to the examples."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        proposal = super()._ask(number, pending)
        first = list({f"example{n}" for n in range(180)}).index("example7")
        return proposal if proposal.extends is not None else replace(proposal, rows=((first,), (0,)))


class HiddenState(Sound):
    """Counts its asks."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._asked = 0

    def _new(self, number: int, running: set[bytes]) -> FloatArray:
        self._asked += 1
        return super()._new(self._asked, running)


class _Rows(Sound):
    """Asks for other examples than it should."""

    rows: ClassVar[Rows] = FIRST
    later: ClassVar[Rows] = SECOND

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        proposal = super()._ask(number, pending)
        if proposal.rows is None:
            return proposal
        return replace(proposal, rows=self.rows if proposal.extends is None else self.later)


class Beyond(_Rows):
    """Asks for examples that do not exist."""

    rows = ((0, 180), (0,))


class Twice(_Rows):
    """Asks for one example twice."""

    rows = ((0, 0), (0,))


class OneTask(_Rows):
    """Forgets a task."""

    rows = ((0, 1),)


class Nothing(_Rows):
    """Asks for no example at all."""

    rows = ((), ())


class Again(_Rows):
    """Asks for examples that it has."""

    later = (tuple(range(19, 60)), tuple(range(10, 30)))


class Everything(_Rows):
    """Scores a candidate on all examples, part by part, which makes it no candidate."""

    later = (tuple(range(20, 180)), tuple(range(10, 90)))


class Elsewhere(Sound):
    """Goes on with another point than the one that was scored."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        proposal = super()._ask(number, pending)
        return proposal if proposal.extends is None else replace(proposal, x=1.0 - proposal.x)


class Forward(Sound):
    """Extends a trial that it was never told."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        proposal = super()._ask(number, pending)
        return proposal if proposal.extends is None else replace(proposal, extends=number - 1)


class Impatient(Sound):
    """Goes on with a candidate that is running already."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return super()._ask(number, {})


class FromFailures(Sound):
    """Goes on from parts that failed."""

    def _tell_part(self, observation: Observation) -> None:
        if not observation.examples:
            observation = observation.changed(examples=(np.zeros(1),))
        super()._tell_part(observation)


class Endless(Sound):
    """Never finishes a candidate."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._new(number, {self.key(x) for x in pending.values()}), rows=FIRST)


class Stuck(Sound):
    """Wants nothing once enough was told, although it says that it never ends."""

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        return len(self._parts) < 10


class Waiting(Sound):
    """Waits for a failed part for ever."""

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        return all(parts[-1].examples for parts in self._parts.values())


class FailuresAreNumbers(Sound):
    """Thinks that every part has scores."""

    def _tell_part(self, observation: Observation) -> None:
        super()._tell_part(observation)
        np.concatenate(observation.examples)


class Forgetful(Sound):
    """Proposes points that it has seen."""

    def _new(self, number: int, running: set[bytes]) -> FloatArray:
        return self._rng(number).random(self.dimension)


class NoPending(Sound):
    """Cannot ask while anything runs."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if pending:
            raise OptimizerError("Wait.")
        return super()._ask(number, pending)


class Credulous(Sound):
    """Takes a part as often as it is told."""

    def tell(self, observation: Observation) -> None:
        self._told_parts.discard(observation.number)
        super().tell(observation)


class Borrower(Sound):
    """Keeps the caller's arrays instead of copies."""

    def _tell_part(self, observation: Observation) -> None:
        self._parts.setdefault(self.key(observation.x), []).append(observation)


class Greedy(Sound):
    """Writes into what it is told."""

    def _tell_part(self, observation: Observation) -> None:
        super()._tell_part(observation)
        for values in observation.examples:
            values[:] = 0.0


class Ignorant(Sound):
    """Claims to learn, and continues every candidate."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._new(number, {self.key(x) for x in pending.values()}))


BROKEN: list[tuple[type[Optimizer], str, dict[str, Any]]] = [
    (Silent, "test_it_says_that_it_asks_for_parts_and_needs_to_know_the_examples", {}),
    (Presuming, "test_it_says_that_it_asks_for_parts_and_needs_to_know_the_examples", {}),
    (Outside, "test_points_lie_in_the_cube", {"dimension": 3}),
    (Seedless, "test_same_seed_same_proposals_and_another_seed_others", {"slots": 1}),
    (Unsteady, "test_same_seed_same_proposals_and_another_seed_others", {"slots": 1}),
    (HiddenState, "test_resume_goes_on_exactly_where_it_stopped", {"slots": 1}),
    (HiddenState, "test_resume_goes_on_exactly_where_it_stopped", {"slots": 3}),
    (HiddenState, "test_asking_leaves_no_trace", {"dimension": 3}),
    *[(rows, "test_rows_are_valid_and_distinct", {"dimension": 3}) for rows in (Beyond, Twice, OneTask, Nothing)],
    (Elsewhere, "test_a_part_goes_on_once_from_scores_of_the_same_point", {"slots": 1}),
    (Forward, "test_a_part_goes_on_once_from_scores_of_the_same_point", {"slots": 3}),
    (Impatient, "test_a_part_goes_on_once_from_scores_of_the_same_point", {"slots": 3}),
    (FromFailures, "test_a_part_goes_on_once_from_scores_of_the_same_point", {"slots": 1}),
    (Again, "test_no_example_is_scored_twice_and_only_whole_trials_score_the_last_ones", {"slots": 1}),
    (Everything, "test_no_example_is_scored_twice_and_only_whole_trials_score_the_last_ones", {"slots": 1}),
    (Endless, "test_candidates_are_finished_and_a_search_is_never_stuck", {"slots": 1}),
    (Stuck, "test_candidates_are_finished_and_a_search_is_never_stuck", {"slots": 3}),
    (Waiting, "test_candidates_are_finished_and_a_search_is_never_stuck", {"slots": 1}),
    (FailuresAreNumbers, "test_failures_are_survived_anywhere", {"slots": 1, "every": 2}),
    (Forgetful, "test_no_new_candidate_is_a_known_one", {}),
    (NoPending, "test_any_pending_points_are_accepted", {"dimension": 3}),
    (Credulous, "test_a_part_is_told_once", {}),
    (Borrower, "test_arguments_stay_the_callers", {}),
    (Greedy, "test_arguments_stay_the_callers", {}),
    (Ignorant, "test_beats_random_search_at_equal_cost", {}),
]


class TestHashOrder(PartsContract):
    plugin = HashOrder
    __test__ = False


def test_an_optimizer_that_depends_on_the_hash_seed_fails(other_process: OtherProcess) -> None:
    with pytest.raises(AssertionError):
        TestHashOrder().test_another_process_and_hash_seed_give_the_same_proposals(other_process)


def contract(optimizer: type[Optimizer]) -> PartsContract:
    class Contract(PartsContract):
        plugin = optimizer
        learns = True

    return Contract()


@pytest.mark.parametrize(("optimizer", "test", "given"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_optimizer_fails(optimizer: type[Optimizer], test: str, given: dict[str, Any]) -> None:
    # A test also fails by what the plug-in itself, or the arithmetic on what it was given, raises.
    with pytest.raises((AssertionError, pytest.fail.Exception, OptimizerError, ValueError, IndexError, KeyError)):
        getattr(contract(optimizer), test)(**given)


@pytest.mark.parametrize(
    ("test", "given"), list({(test, json.dumps(given)): (test, given) for _, test, given in BROKEN}.values())
)
def test_a_sound_optimizer_passes_the_same_tests(test: str, given: dict[str, Any]) -> None:
    getattr(contract(Sound), test)(**given)


def test_the_gradient_of_the_world_is_the_slope_of_its_examples() -> None:
    world, x = World(3), np.array([0.1, 0.5, 0.9])
    rows: Rows = ((1, 5), (2,))
    found = world.gradient(Proposal(x, rows=rows, gradient=(0.25, 0.75)))

    def loss(at: FloatArray) -> float:
        means = [np.mean((at - o[list(r)]) ** 2) for o, r in zip(world.optima, rows, strict=True)]
        return float(0.25 * means[0] + 0.75 * means[1])

    slopes = [(loss(x + step) - loss(x - step)) / 2e-5 for step in 1e-5 * np.eye(3)]
    assert found.tolist() == pytest.approx(slopes)
