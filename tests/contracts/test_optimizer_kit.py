"""The optimizers' kit catches what it is for: each optimizer here breaks one promise."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal
from tests.contracts.optimizer import OptimizerContract
from tests.contracts.other_process import OtherProcess

SHAPE = (3, 1)


class Sound(Optimizer):
    """Keeps every promise; steps at random from the best point so far."""

    max_objectives: ClassVar[int | None] = 1

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        finished = [told for told in self._told.values() if told.losses is not None]
        centre = min(finished, key=lambda told: told.losses[0]).x if finished else self.start
        return Proposal(np.clip(centre + 0.1 * self._rng(number).standard_normal(self.dimension), 0.0, 1.0))

    def _tell(self, observation: Observation) -> None:
        pass


class HiddenState(Sound):
    """One stream of random numbers, so that an ask changes the next one."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._stream = np.random.default_rng(self.seed)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._stream.random(self.dimension))


class HashOrder(Sound):
    """Goes through a set on the way to numbers."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        names = list({f"weight{n}" for n in range(5000)})
        return Proposal(np.full(self.dimension, names.index("weight7") / 5000))


class Seedless(Sound):
    """The same points whatever the seed."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(np.random.default_rng(number).random(self.dimension))


class OnePoint(Sound):
    """A point per history and not per trial, which passes by the base's check."""

    def ask(self, number: int, pending: Mapping[int, FloatArray] | None = None) -> Proposal:
        return Proposal(self._rng(len(self._told)).random(self.dimension))


class Outside(Sound):
    """Leaves the cube and passes by the base's check."""

    def ask(self, number: int, pending: Mapping[int, FloatArray] | None = None) -> Proposal:
        return Proposal(3.0 * self._rng(number).standard_normal(self.dimension))


class SinglePrecision(Sound):
    """Points of another type."""

    def ask(self, number: int, pending: Mapping[int, FloatArray] | None = None) -> Proposal:
        return Proposal(super().ask(number, pending).x.astype(np.float32))


class Credulous(Sound):
    """Takes whatever it is told, as often as it is told."""

    def tell(self, observation: Observation) -> None:
        self._told[observation.number] = observation


class FailuresAreNumbers(Sound):
    """Thinks that every trial has losses."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        losses = [float(told.losses[0]) for told in self._told.values()]
        return Proposal(self._rng(number + len(losses)).random(self.dimension))


class FailuresEndIt(Sound):
    """Has no answer when nothing has succeeded."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if self._told and all(told.losses is None for told in self._told.values()):
            raise OptimizerError("Nothing to learn from.")
        return super()._ask(number, pending)


class Greedy(Sound):
    """Writes into what it is given."""

    def ask(self, number: int, pending: Mapping[int, FloatArray] | None = None) -> Proposal:
        proposal = super().ask(number, pending)
        if isinstance(pending, dict):
            pending.clear()
        return proposal

    def tell(self, observation: Observation) -> None:
        super().tell(observation)
        if observation.x.flags.writeable:
            observation.x[:] = 0.0


class Borrower(Sound):
    """Keeps the caller's arrays instead of copies."""

    def tell(self, observation: Observation) -> None:
        super().tell(observation)
        self._told[observation.number] = observation


class OrderBound(Sound):
    """Counts on trials ending in the order of their numbers."""

    def _tell(self, observation: Observation) -> None:
        if observation.number < max(self._told):
            raise OptimizerError(f"Trial {observation.number} comes too late.")


class NoPending(Sound):
    """Cannot ask while anything runs."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if pending:
            raise OptimizerError("Wait.")
        return super()._ask(number, pending)


class Ignorant(Sound):
    """Claims to learn and searches at random."""

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._rng(number).random(self.dimension))


BROKEN: list[tuple[type[Optimizer], str, dict[str, Any]]] = [
    (HiddenState, "test_asking_leaves_no_trace", {"shape": SHAPE}),
    (HiddenState, "test_resume_goes_on_exactly_where_it_stopped", {"shape": SHAPE, "slots": 1}),
    (Seedless, "test_another_seed_gives_other_points", {"shape": SHAPE}),
    (OnePoint, "test_numbers_give_distinct_points", {"shape": SHAPE}),
    (OnePoint, "test_no_candidate_is_asked_for_twice", {"shape": SHAPE}),
    (Outside, "test_points_lie_in_the_cube", {"shape": SHAPE}),
    (SinglePrecision, "test_points_lie_in_the_cube", {"shape": SHAPE}),
    (Credulous, "test_only_finite_losses_are_taken", {"shape": SHAPE, "bad": np.nan}),
    (Credulous, "test_a_trial_is_told_once", {"shape": SHAPE}),
    (Credulous, "test_wrong_shapes_are_refused", {"shape": SHAPE}),
    (FailuresAreNumbers, "test_failures_are_survived_anywhere", {"shape": SHAPE}),
    (FailuresEndIt, "test_failures_are_survived_anywhere", {"shape": SHAPE}),
    (Greedy, "test_arguments_stay_the_callers", {"shape": SHAPE}),
    (Borrower, "test_arguments_stay_the_callers", {"shape": SHAPE}),
    (OrderBound, "test_tells_come_in_any_order_and_some_never", {"shape": SHAPE}),
    (NoPending, "test_any_pending_points_are_accepted", {"shape": SHAPE}),
    (Ignorant, "test_beats_random_search", {}),
]


class SumOfLosses(Sound):
    """Steps at random from the point with the smallest sum of losses."""

    max_objectives: ClassVar[int | None] = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        finished = [told for told in self._told.values() if told.losses is not None]
        centre = min(finished, key=lambda told: told.losses.sum()).x if finished else self.start
        return Proposal(np.clip(centre + 0.1 * self._rng(number).standard_normal(self.dimension), 0.0, 1.0))


class IgnorantOfFronts(Ignorant):
    """Claims to learn fronts and searches at random."""

    max_objectives: ClassVar[int | None] = None


class NeedsMore(Sound):
    """Says that it needs two objectives and takes one."""

    min_objectives: ClassVar[int] = 2
    max_objectives: ClassVar[int | None] = None

    def __init__(self, dimension: int, n_objectives: int, *given: Any) -> None:
        super().__init__(dimension, max(n_objectives, 2), *given)
        self.n_objectives = n_objectives


class TestHashOrder(OptimizerContract):
    plugin = HashOrder
    __test__ = False


def test_an_optimizer_that_depends_on_the_hash_seed_fails(other_process: OtherProcess) -> None:
    with pytest.raises(AssertionError):
        TestHashOrder().test_another_process_and_hash_seed_give_the_same_points(other_process)


def contract(optimizer: type[Optimizer]) -> OptimizerContract:
    class Contract(OptimizerContract):
        plugin = optimizer
        learns = True
        learns_fronts = True

    return Contract()


@pytest.mark.parametrize(("optimizer", "test", "given"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_optimizer_fails(optimizer: type[Optimizer], test: str, given: dict[str, Any]) -> None:
    # OptimizerError and TypeError: a test also fails by what the plug-in itself raises.
    with pytest.raises((AssertionError, pytest.fail.Exception, OptimizerError, TypeError)):
        getattr(contract(optimizer), test)(**given)


@pytest.mark.parametrize(("optimizer", "sound"), [(IgnorantOfFronts, False), (SumOfLosses, True)])
def test_fronts_are_learnt_or_not(optimizer: type[Optimizer], sound: bool) -> None:
    with contextlib.nullcontext() if sound else pytest.raises(AssertionError):
        contract(optimizer).test_covers_more_than_random_search()


def test_too_few_objectives_are_refused() -> None:
    with pytest.raises(pytest.fail.Exception):
        contract(NeedsMore).test_wrong_shapes_are_refused((3, 2))


@pytest.mark.parametrize(
    ("test", "given"), list({(test, json.dumps(given)): (test, given) for _, test, given in BROKEN}.values())
)
def test_a_sound_optimizer_passes_the_same_tests(test: str, given: dict[str, Any]) -> None:
    getattr(contract(Sound), test)(**given)
