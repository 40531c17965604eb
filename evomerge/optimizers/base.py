"""The optimizer contract: ask and tell over the unit cube, minimizing, with keyed randomness.

Shapes: dimension coordinates per point, n_objectives losses per observation.
Plug-ins implement `_ask` and `_tell`; ranges, duplicates and finiteness are checked here, once for all of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import EvomergeError
from evomerge.optimizers._threads import one_thread
from evomerge.trial import Value

FloatArray = NDArray[np.float64]


#: Offset of a trial's number for each further draw; a multiple of every number of objectives up to 16.
_REDRAW = 720_720
#: Standard deviations of the steps away from a known point, in units of the cube's width.
_STEPS = (0.05, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.4, 0.8)
#: Random points to try before a space is declared exhausted.
_N_RANDOM = 100


class OptimizerError(EvomergeError):
    """Misuse of an optimizer, or an option it does not support."""


class Exhausted(OptimizerError):
    """No new candidate was found: every one tried has already been told or is being evaluated."""


def rounded(values: FloatArray) -> bytes:
    """Return the bytes of values at the precision of a merge: float32, without negative zero."""
    return (np.asarray(values, dtype=np.float32) + np.float32(0.0)).tobytes()


#: Rows of examples by task, in the order of the tasks: positions among the examples of the search split.
Rows = tuple[tuple[int, ...], ...]


def _is_unchanged(before: FloatArray, x: FloatArray) -> bool:
    """Return whether x is the same array as before, and read-only."""
    return before is x and isinstance(x, np.ndarray) and not x.flags.writeable


@dataclass(frozen=True)
class TaskExamples:
    """One task of the search split: the number of its examples and its share of the mean, from 0 to 1.

    no_loss: why its examples have no differentiable loss; None where they have one.
    """

    name: str
    n_examples: int
    share: float
    no_loss: str | None = None


@dataclass(frozen=True, eq=False)
class Positions:
    """The parameter, input and depth of each coordinate.

    Attributes:
        series: Number of its parameter and input, (dimension,); coordinates of a series differ in their tensors only.
        depths: Depth of its tensors, (dimension,): 0 for the embedding, 1 for the head.
    """

    series: NDArray[np.int64]
    depths: FloatArray

    @property
    def n_series(self) -> int:
        """Number of series."""
        return int(self.series.max()) + 1


@dataclass(frozen=True, eq=False)
class Measures:
    """Measurements that a search offers besides whole candidates' scores, and the coordinates' positions.

    Attributes:
        tasks: The tasks in their order.
        no_gradient: Why the merge has no gradient by its coefficients; None where it has one.
        coarse: Number of a coarser group of each coordinate, (dimension,), such as the block of a tensor; None if the
            space has no coarser groups.
        no_parts: Why candidates cannot be compared by their losses on some of the examples; None where they can.
        positions: Where the coordinates act; None if unknown.
        by_method: `no_gradient` of each merge method, where the search chooses from several; empty for one.
    """

    tasks: tuple[TaskExamples, ...]
    no_gradient: str | None = None
    coarse: NDArray[np.int64] | None = None
    no_parts: str | None = None
    positions: Positions | None = None
    by_method: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Proposal:
    """The next measurement.

    Attributes:
        x: The point to evaluate, (dimension,), in [0, 1], read-only.
        rows: The only examples to score; None for all of them.
        extends: Number of an earlier partial trial of the same point; only what it lacks is scored.
        gradient: Weight of each task's mean loss over `rows`; the derivative of their sum by x is wanted instead of
            scores. None for scores.
        unraced: Whether all examples are to be scored even where candidates race.
    """

    x: FloatArray
    rows: Rows | None = None
    extends: int | None = None
    gradient: tuple[float, ...] | None = None
    unraced: bool = False

    @property
    def is_whole_candidate(self) -> bool:
        """Whether this is a new candidate, to be scored on all examples."""
        return self.rows is None and self.extends is None


class Observation(Value, frozen=True, eq=False):
    """The result of a trial.

    Attributes:
        number: Number of the trial; negative for one of an earlier study.
        x: Its point, (dimension,).
        losses: Its losses, (n_objectives,), smaller is better; None if the trial failed, and for a part.
        proposed: False for points that this optimizer did not propose, such as baselines, the start, and candidates of
            earlier studies.
        examples: Per-example losses, one array (n_examples,) per task, in the order of the tasks; empty if unknown.
            Where every task is an objective, the mean of `examples[m]` is `losses[m]`. Duplicate examples are
            dropped, and the loss is then a weighted mean.
        share: Share of the examples that were scored; below 1 the losses of a candidate are an estimate.
        rows: The examples that a partial trial asked for; None for a whole one.
        gradient: The derivative that a partial trial asked for, (dimension,); `examples` are then differentiable
            losses. None for others, and where the trial failed.
        seconds: Time that merging and scoring took; None if unknown, or if only some of it is known. Measured, so it
            differs between runs, but kept in the ledger.
    """

    number: int
    x: FloatArray
    losses: FloatArray | None
    proposed: bool = True
    examples: Sequence[FloatArray] = ()
    share: float = 1.0
    rows: Rows | None = None
    gradient: FloatArray | None = None
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """The forecast for an unmeasured point x, (dimension,): losses (n_objectives,) and their standard errors."""

    x: FloatArray
    losses: FloatArray
    errors: FloatArray


class Optimizer(ABC):
    """Proposes points of the unit cube and learns from their losses; smaller is better.

    A proposal depends only on the observations so far and their order, the preference and limits, the trial's
    number, the pending points and the number of workers: a new optimizer that is told the same history proposes the
    same point. All randomness comes from `self._rng`.

    Args:
        dimension: Number of coordinates to search, at least 1.
        n_objectives: Number of losses per observation, from `min_objectives` to `max_objectives`.
        seed: Key of all random draws, a non-negative integer.
        start: Point to start from, (dimension,), in [0, 1]; the center of the cube by default.

    Raises:
        OptimizerError: An argument is out of range, or the number of objectives is not supported.

    Example:
        >>> from evomerge.optimizers.cma_es import CmaEs
        >>> optimizer = CmaEs(dimension=2, n_objectives=1, seed=0)
        >>> for number in range(100):
        ...     x = optimizer.ask(number).x
        ...     optimizer.tell(Observation(number, x, losses=np.array([np.sum((x - 0.3) ** 2)])))
        >>> bool(np.allclose(optimizer.recommend(), 0.3, atol=0.05))
        True
    """

    #: Smallest and largest supported number of objectives; None = no limit.
    min_objectives: ClassVar[int] = 1
    max_objectives: ClassVar[int | None] = 1
    #: Draws to try in place of a known point before stepping away from it; 0 where further draws are the same.
    redraws: ClassVar[int] = 4
    #: Whether it asks for parts of a candidate's examples or for gradients, and so needs `measures`.
    uses_parts: ClassVar[bool] = False
    #: Whether it asks for gradients, so that any number of coordinates costs the same.
    follows_gradients: ClassVar[bool] = False
    #: Whether it uses where the coordinates act, and so needs `measures`.
    uses_positions: ClassVar[bool] = False
    #: Whether each coordinate is a model's weight, so that 0 leaves the model out and a one-hot point is that model.
    one_coordinate_per_model: ClassVar[bool] = False

    def __init__(self, dimension: int, n_objectives: int, seed: int, start: FloatArray | None = None) -> None:
        if dimension < 1:
            raise OptimizerError(f"A search needs at least one free coefficient; got {dimension}.")
        if n_objectives < self.min_objectives:
            raise OptimizerError(
                f"{type(self).__name__} needs at least {self.min_objectives} objective(s); got {n_objectives}."
            )
        if self.max_objectives is not None and n_objectives > self.max_objectives:
            raise OptimizerError(
                f"{type(self).__name__} supports at most {self.max_objectives} objective(s); got {n_objectives}."
            )
        if seed < 0:
            raise OptimizerError(f"Expected a non-negative integer seed; got {seed}.")
        self.dimension = dimension
        self.n_objectives = n_objectives
        self.seed = seed
        self.start = np.full(dimension, 0.5) if start is None else self._checked(start)
        #: Relative weight of each objective, (n_objectives,), summing to 1.
        self.preference: FloatArray = np.full(n_objectives, 1.0 / n_objectives)
        #: Upper bounds on the losses of an acceptable point, (n_objectives,); infinite where unconstrained.
        self.limits: FloatArray = np.full(n_objectives, np.inf)
        #: Measurements that the search offers besides whole candidates; None until `inform`.
        self.measures: Measures | None = None
        #: Number of workers, as far as it is known: trials that run at the same time while there are enough.
        self.n_workers = 1
        self._told: dict[int, Observation] = {}
        self._told_parts: set[int] = set()
        self._known: set[bytes] = set()
        self._pending_keys: dict[int, tuple[FloatArray, FloatArray, bytes]] = {}
        self._key: Callable[[FloatArray], bytes] = rounded

    def identify(self, key: Callable[[FloatArray], bytes]) -> None:
        """Define which points are the same candidate; by default, those that are equal in float32.

        Args:
            key: Maps a point, (dimension,), to a key that is equal for equal candidates, e.g. the bytes of its
                coefficients.

        Raises:
            OptimizerError: A point has already been told.
        """
        if self._told:
            raise OptimizerError("Call `identify` before the first `tell`: points that are known already have keys.")
        self._key = key
        self._pending_keys = {}

    def knows(self, x: FloatArray) -> bool:
        """Return whether this candidate has been told, possibly under other coordinates."""
        return self.key(x) in self._known

    def key(self, x: FloatArray) -> bytes:
        """Return the key that identifies a point's candidate; see `identify`."""
        return self._key(x)

    @one_thread
    def ask(self, number: int, pending: Mapping[int, FloatArray] | None = None) -> Proposal:
        """Propose the point for a trial.

        A candidate that was told or is pending is never proposed; it is replaced by another draw or a nearby point.
        Partial trials and gradients may be asked for at known points.
        Asking has no side effects: a point that is never told leaves no trace.

        Args:
            number: Number of the trial, not told yet.
            pending: Points that are being evaluated, (dimension,) each, by trial number.

        Returns:
            The point to evaluate.

        Raises:
            OptimizerError: The number is negative or was told, or a pending point is outside the cube.
            Exhausted: No new candidate was found.
        """
        if number < 0:
            raise OptimizerError(f"Trial numbers start at 0; got {number}.")
        if number in self._told or number in self._told_parts:
            raise OptimizerError(f"Trial {number} has already been told; ask with a new number.")
        points = self._checked_pending(pending or {})
        taken = {key for _, _, key in self._pending_keys.values()}
        proposal = self._ask(number, points)
        first = self._checked(proposal.x)
        if not proposal.is_whole_candidate:
            return replace(proposal, x=first)
        x = next(x for x in self._proposals(first, number, points) if not self._is_taken(x, taken))
        return Proposal(x, unraced=proposal.unraced)

    def _checked_pending(self, pending: Mapping[int, FloatArray]) -> dict[int, FloatArray]:
        """Check pending points and find their keys, each once: with many workers, most were pending before."""
        before, self._pending_keys = self._pending_keys, {}
        for number, x in sorted(pending.items()):
            known = before.get(number)
            if known is None or not (_is_unchanged(known[0], x) or np.array_equal(known[1], x)):
                point = self._checked(x)
                known = x, point, self.key(point)
            self._pending_keys[number] = known
        return {number: point for number, (_, point, _) in self._pending_keys.items()}

    def _is_taken(self, x: FloatArray, pending: Collection[bytes]) -> bool:
        key = self.key(x)
        return key in self._known or key in pending

    def _proposals(self, first: FloatArray, number: int, pending: Mapping[int, FloatArray]) -> Iterator[FloatArray]:
        """Yield the point that was asked for, then replacements keyed by the number. Raises Exhausted at the end."""
        yield first
        for draw in range(1, self.redraws + 1):
            yield self._checked(self._ask(number + draw * _REDRAW, pending).x)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, number, 1))))
        for step in self._steps():
            moved = np.abs(first + step * rng.standard_normal(self.dimension))
            yield self._checked(np.clip(1.0 - np.abs(1.0 - moved), 0.0, 1.0))  # reflected at the faces of the cube
        for _ in range(_N_RANDOM):
            yield self._checked(rng.random(self.dimension))
        raise Exhausted(f"{type(self).__name__} found no new candidate; {len(self._told)} are completed.")

    @one_thread
    def tell(self, observation: Observation) -> None:
        """Record the result of a trial; in any order, at most once per number.

        Args:
            observation: The result; `losses` is None for a failed trial, never NaN.

        Raises:
            OptimizerError: The number was told before, the losses have another shape or are not finite, or the point is
                outside the cube.
        """
        if observation.number in self._told or observation.number in self._told_parts:
            raise OptimizerError(f"Trial {observation.number} has already been told.")
        if observation.rows is not None:
            self._told_parts.add(observation.number)
            self._tell_part(observation.changed(x=self._checked(observation.x)))
            return
        losses = observation.losses
        if losses is not None:
            losses = np.array(losses, dtype=np.float64)
            if losses.shape != (self.n_objectives,):
                raise OptimizerError(f"Expected {self.n_objectives} losses; got shape {losses.shape}.")
            if not all(map(math.isfinite, losses.tolist())):  # of few numbers, several times as fast as by numpy
                raise OptimizerError(
                    f"Trial {observation.number} has non-finite losses: {losses.tolist()}. "
                    "Report a failed trial with losses=None."
                )
            losses.flags.writeable = False
        told = observation.changed(x=self._checked(observation.x), losses=losses)
        self._told[told.number] = told
        self._known.add(self.key(told.x))
        self._tell(told)

    def inform(self, measures: Measures) -> None:
        """Learn which measurements the search offers, before the first `ask`.

        Raises:
            OptimizerError: The optimizer cannot search with what there is.
        """
        self.measures = measures

    def expect(self, n_workers: int) -> None:
        """Learn how many trials run at the same time; this may change between two asks."""
        self.n_workers = n_workers

    def prefer(self, weights: Sequence[float]) -> None:
        """Set the relative weight of each objective.

        Args:
            weights: Positive weights, (n_objectives,), normalized to sum to 1.

        Raises:
            OptimizerError: A weight is not positive, or their number is wrong.
        """
        given = np.array(weights, dtype=np.float64)
        if given.shape != (self.n_objectives,) or not np.isfinite(given).all() or given.min() <= 0:
            raise OptimizerError(f"Expected {self.n_objectives} positive weights; got {given.tolist()}.")
        self.preference = given / given.sum()

    def limit(self, losses: Sequence[float]) -> None:
        """Set upper bounds on the losses of an acceptable point.

        Args:
            losses: One bound per objective, (n_objectives,); infinite for none.

        Raises:
            OptimizerError: A bound is NaN, or their number is wrong.
        """
        given = np.array(losses, dtype=np.float64)
        if given.shape != (self.n_objectives,) or np.isnan(given).any():
            raise OptimizerError(f"Expected {self.n_objectives} limits; got {given.tolist()}.")
        self.limits = given

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:  # noqa: ARG002 - for plug-ins that finish
        """Return whether another trial would help now; if not, and none is pending, the search ends.

        Args:
            pending: Points that are being evaluated, (dimension,) each, by trial number.
        """
        return True

    def evaluations_left(self) -> float | None:
        """Return the evaluations of the search split that the optimizer still takes before it ends by itself.

        None where it goes on as long as the budget allows.
        """
        return None

    def decisions(self) -> tuple[str, ...]:
        """Return the decisions taken so far and their reasons, a sentence each, for the log and the report."""
        return ()

    def predictions(self) -> tuple[Prediction, ...]:
        """Return the predicted Pareto front; empty without a model of the losses."""
        return ()

    def why_no_predictions(self) -> str | None:
        """Return why `predictions` is empty although this optimizer models the losses; None where it models none."""
        return None

    def recommend(self) -> FloatArray | None:
        """Return the point expected to be best, measured or not (CMA-ES: the mean), or None."""
        return None

    def _steps(self) -> Sequence[float]:
        """Return the steps to try away from a known point, in order: standard deviations, in cube widths."""
        return _STEPS

    def _rng(self, number: int) -> np.random.Generator:
        """Return the generator of trial `number`: keyed by (seed, number), the same in every process."""
        key = (self.seed, number) if number >= 0 else (self.seed, -number, 2)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

    def _seed32(self, number: int) -> int:
        """Return the first draw of `_rng(number)` as a seed, for libraries that take 32 bits."""
        return int(self._rng(number).integers(2**32))

    def _checked(self, x: Sequence[float] | FloatArray) -> FloatArray:
        point = np.array(x, dtype=np.float64)
        if point.shape != (self.dimension,):
            raise OptimizerError(f"Expected a point of shape ({self.dimension},); got {point.shape}.")
        if not (np.minimum.reduce(point) >= 0.0 and np.maximum.reduce(point) <= 1.0):  # NaN is not, either
            raise OptimizerError(f"A point must lie in [0, 1]^{self.dimension}; got {point.tolist()}.")
        point.flags.writeable = False
        return point

    def _tell_part(self, observation: Observation) -> None:  # noqa: B027 - only for optimizers that ask for parts
        """Learn from a partial trial or a gradient."""

    @abstractmethod
    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal: ...

    @abstractmethod
    def _tell(self, observation: Observation) -> None: ...
