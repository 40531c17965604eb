"""The contract of every optimizer: ask and tell over the unit cube, minimising, with keyed randomness.

Vocabulary of shapes: dimension = number of coordinates, n_objectives losses per observation.
A plug-in writes `_ask` and `_tell`; ranges, duplicates and finiteness are checked here, once for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import EvomergeError

FloatArray = NDArray[np.float64]


#: What is added to a trial's number for another draw; a multiple of every number of objectives up to 16.
_REDRAW = 720_720
#: Standard deviations of the steps away from a known point, in widths of the cube.
_STEPS = (0.05, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.4, 0.8)
#: Random points to look at before a space is called exhausted.
_N_RANDOM = 100


class OptimizerError(EvomergeError):
    """An optimizer used against its contract, or built with options that it cannot take."""


class Exhausted(OptimizerError):
    """No point was found that is a candidate of its own: all that there are have been told or are being evaluated."""


def rounded(values: FloatArray) -> bytes:
    """The bytes of numbers as a merge computes with them: in float32, and 0 without a sign."""
    return (np.asarray(values, dtype=np.float32) + np.float32(0.0)).tobytes()


@dataclass(frozen=True, eq=False)
class Proposal:
    """What to evaluate next: `x` of shape (dimension,) in [0, 1], read-only."""

    x: FloatArray


@dataclass(frozen=True, eq=False)
class Observation:
    """What became of a trial: its point and its losses (n_objectives,), or None when it failed.

    `proposed` is False for points that did not come from this optimizer: baselines and the start.
    examples: what the losses are made of, one array (n_examples,) of the examples' losses per task, in the order of
    the tasks; where every task is an objective, the mean of `examples[m]` is `losses[m]`. Examples that repeat another
    one are left out, and then the loss is a weighted mean. Empty when not known.
    """

    number: int
    x: FloatArray
    losses: FloatArray | None
    proposed: bool = True
    examples: tuple[FloatArray, ...] = ()


@dataclass(frozen=True, eq=False)
class Prediction:
    """A point that was not measured: x (dimension,), its predicted losses (n_objectives,) and their standard errors."""

    x: FloatArray
    losses: FloatArray
    errors: FloatArray


class Optimizer(ABC):
    """Proposes points of the unit cube and learns from their losses (smaller is better).

    `ask(number, pending)` depends on what was told, in the order of telling, on the preference and limits, on
    `number` and on `pending` only: a new object that is told the same history asks the same. Every random draw
    comes from `self._rng`.
    """

    #: The smallest and the largest number of objectives it handles; None = any.
    min_objectives: ClassVar[int] = 1
    max_objectives: ClassVar[int | None] = 1
    #: How often to ask for another draw of a known point before stepping away from it; 0 where draws are all alike.
    redraws: ClassVar[int] = 4
    #: Whether a coordinate stands for a model: there are as many, 0 leaves it out, and 1 with 0 elsewhere is it.
    one_coordinate_per_model: ClassVar[bool] = False

    def __init__(self, dimension: int, n_objectives: int, seed: int, start: FloatArray | None = None) -> None:
        """dimension: coordinates. start: where the search begins, (dimension,); the cube's centre by default.

        Raises OptimizerError for a dimension, number of objectives, seed or start that it cannot take.
        """
        if dimension < 1:
            raise OptimizerError(f"A search needs at least one free coefficient; there are {dimension}.")
        if n_objectives < self.min_objectives:
            raise OptimizerError(
                f"{type(self).__name__} needs at least {self.min_objectives} objective(s); there are {n_objectives}."
            )
        if self.max_objectives is not None and n_objectives > self.max_objectives:
            raise OptimizerError(
                f"{type(self).__name__} handles {self.max_objectives} objective(s); there are {n_objectives}."
            )
        if seed < 0:
            raise OptimizerError(f"A seed is a whole number from 0 on; it is {seed}.")
        self.dimension = dimension
        self.n_objectives = n_objectives
        self.seed = seed
        self.start = np.full(dimension, 0.5) if start is None else self._checked(start)
        #: How much each objective matters, (n_objectives,), summing to 1.
        self.preference: FloatArray = np.full(n_objectives, 1.0 / n_objectives)
        #: Losses that a wanted point does not exceed, (n_objectives,); infinite where nothing is asked.
        self.limits: FloatArray = np.full(n_objectives, np.inf)
        self._told: dict[int, Observation] = {}
        self._known: set[bytes] = set()
        self._key: Callable[[FloatArray], bytes] = rounded

    def identify(self, key: Callable[[FloatArray], bytes]) -> None:
        """Say which points are one candidate: those with equal keys, such as the bytes of their coefficients.

        By default those that are equal in float32. Raises OptimizerError after the first `tell`.
        """
        if self._told:
            raise OptimizerError("Say which points are one candidate before the first of them is told.")
        self._key = key

    def knows(self, x: FloatArray) -> bool:
        """Whether this candidate was told already, under whatever coordinates."""
        return self.key(x) in self._known

    def key(self, x: FloatArray) -> bytes:
        """What makes a point the candidate that it is; see `identify`."""
        return self._key(x)

    def ask(self, number: int, pending: Mapping[int, FloatArray] | None = None) -> Proposal:
        """The point for trial `number`; `pending` holds the points that are being evaluated now, by number.

        No candidate is proposed that was told or is pending: in its place comes another draw, or a point nearby. Asking
        changes nothing: a point that is never told leaves no trace. Raises OptimizerError for a number that was told
        already and for pending points outside of the cube; Exhausted where every candidate is known.
        """
        if number < 0:
            raise OptimizerError(f"Trial numbers start at 0; this one is {number}.")
        if number in self._told:
            raise OptimizerError(f"Trial {number} has been told already; ask for a new number.")
        points = {n: self._checked(x) for n, x in sorted((pending or {}).items())}
        taken = self._known.union(map(self.key, points.values()))
        return Proposal(next(x for x in self._proposals(number, points) if self.key(x) not in taken))

    def _proposals(self, number: int, pending: Mapping[int, FloatArray]) -> Iterator[FloatArray]:
        """What `_ask` proposes, then what may stand in for it, keyed by the number. Raises Exhausted at the end."""
        first = self._checked(self._ask(number, pending).x)
        yield first
        for draw in range(1, self.redraws + 1):
            yield self._checked(self._ask(number + draw * _REDRAW, pending).x)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, number, 1))))
        for step in self._steps():
            moved = np.abs(first + step * rng.standard_normal(self.dimension))
            yield self._checked(np.clip(1.0 - np.abs(1.0 - moved), 0.0, 1.0))  # reflected at the faces of the cube
        for _ in range(_N_RANDOM):
            yield self._checked(rng.random(self.dimension))
        raise Exhausted(f"{type(self).__name__} finds no candidate that has not been told; {len(self._told)} were.")

    def tell(self, observation: Observation) -> None:
        """Learn from a trial; in any order, at most once per number.

        Raises OptimizerError for a second telling, losses of another shape, losses that are not finite and a
        point outside of the cube. A failed trial has no losses (None), never a NaN.
        """
        if observation.number in self._told:
            raise OptimizerError(f"Trial {observation.number} was told twice.")
        losses = observation.losses
        if losses is not None:
            losses = np.array(losses, dtype=np.float64)
            if losses.shape != (self.n_objectives,):
                raise OptimizerError(f"Expected {self.n_objectives} losses; they have shape {losses.shape}.")
            if not np.isfinite(losses).all():
                raise OptimizerError(
                    f"Trial {observation.number} has losses that are not finite: {losses.tolist()}. "
                    "Tell a failed trial with losses=None."
                )
            losses.flags.writeable = False
        told = replace(observation, x=self._checked(observation.x), losses=losses)
        self._told[told.number] = told
        self._known.add(self.key(told.x))
        self._tell(told)

    def prefer(self, weights: Sequence[float]) -> None:
        """Say how much each objective matters, (n_objectives,). Raises OptimizerError unless all are above 0."""
        given = np.array(weights, dtype=np.float64)
        if given.shape != (self.n_objectives,) or not np.isfinite(given).all() or given.min() <= 0:
            raise OptimizerError(f"Expected {self.n_objectives} weights above 0; got {given.tolist()}.")
        self.preference = given / given.sum()

    def limit(self, losses: Sequence[float]) -> None:
        """Say which losses no wanted point exceeds, (n_objectives,). Raises OptimizerError for NaN."""
        given = np.array(losses, dtype=np.float64)
        if given.shape != (self.n_objectives,) or np.isnan(given).any():
            raise OptimizerError(f"Expected {self.n_objectives} limits; got {given.tolist()}.")
        self.limits = given

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:  # noqa: ARG002 - for plug-ins that come to an end
        """Whether another trial would serve it now; where none does and none is pending, the search ends."""
        return True

    def predictions(self) -> tuple[Prediction, ...]:
        """The front that it expects beyond what was measured; empty where it has no model of the losses."""
        return ()

    def recommend(self) -> FloatArray | None:
        """A point that the optimizer believes in beyond what was measured (CMA-ES: its mean), or None."""
        return None

    def _steps(self) -> Sequence[float]:
        """How far to step away from a known point, one try after the other: standard deviations, in widths."""
        return _STEPS

    def _rng(self, number: int) -> np.random.Generator:
        """The generator for trial `number`: keyed by (seed, number), the same in every process."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, number))))

    def _seed32(self, number: int) -> int:
        """The first draw of `_rng(number)` as a seed for libraries that want 32 bits."""
        return int(self._rng(number).integers(2**32))

    def _checked(self, x: Sequence[float] | FloatArray) -> FloatArray:
        point = np.array(x, dtype=np.float64)
        if point.shape != (self.dimension,):
            raise OptimizerError(f"Expected a point of shape ({self.dimension},); it has {point.shape}.")
        if not np.isfinite(point).all() or point.min() < 0.0 or point.max() > 1.0:
            raise OptimizerError(f"A point must lie in [0, 1]^{self.dimension}; it is {point.tolist()}.")
        point.flags.writeable = False
        return point

    @abstractmethod
    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal: ...

    @abstractmethod
    def _tell(self, observation: Observation) -> None: ...
