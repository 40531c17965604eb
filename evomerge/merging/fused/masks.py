"""Sums and elections of sparse deltas in one compiled pass: the masks of methods, and the call of the kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.fused.flags import Flag, Flags
from evomerge.merging.fused.tensors import Pieces, Words, kernels, kernels_on_gpu, kinds_by_dtype, on_gpu, overflow

#: More inputs than this do not fit into the registers, and are left to PyTorch.
MOST_INPUTS = 8


class Mask(Protocol):
    """The elements of an input's delta that are kept."""

    @property
    def row_length(self) -> int | None:
        """Elements of a row, if the mask differs between rows."""

    def words(self, masked: ModuleType) -> Any:
        """Return the mask as an argument of the kernels on the CPU."""

    def numbers(self, masked: ModuleType) -> Any:
        """Return the mask as an argument of the kernels on a GPU; None if they do not take it."""


@dataclass(frozen=True)
class Cuts:
    """Elements of each row whose magnitude is above a threshold, or equal to it at a position before an end.

    thresholds: bits of magnitudes, (n_rows,), int32; ends: (n_rows,), int64. outer: the same two for elements that are
    excepted.
    """

    row_length: int
    thresholds: Tensor
    ends: Tensor
    outer: tuple[Tensor, Tensor] | None = None

    def words(self, masked: ModuleType) -> Any:
        """Return the addresses of the numbers."""
        inner = self.thresholds.data_ptr(), self.ends.data_ptr()
        if self.outer is None:
            return masked.Cuts(*inner)
        return masked.Middles(*inner, *(part.data_ptr() for part in self.outer))

    def numbers(self, masked: ModuleType) -> Any:
        """Return the numbers if there is a single row."""
        if len(self.thresholds) != 1:
            return None
        inner, outer = (self.thresholds, self.ends), self.outer or ()
        return masked.Numbers("middle" if outer else "cut", tuple(int(part) for part in (*inner, *outer)))


@dataclass(frozen=True)
class AtRandom:
    """Elements whose random number is below `limit`. keys: of the generator. divisor: of kept elements."""

    keys: tuple[int, int]
    limit: int
    divisor: float | None = None
    row_length = None

    def words(self, masked: ModuleType) -> Any:
        """Return the numbers as 32-bit ones."""
        divisor = None if self.divisor is None else np.float32(self.divisor)
        return masked.AtRandom(*map(np.int32, self.keys), np.int32(self.limit), divisor)

    def numbers(self, masked: ModuleType) -> Any:
        """Return the numbers."""
        divisor = None if self.divisor is None else _rounded(self.divisor)
        return masked.Numbers("random", (*self.keys, self.limit), (divisor,))


@dataclass(frozen=True)
class ByRank:
    """Elements kept with the probability lowest + step * rank, see `AtRandom`.

    ranks: (numel,), int16 or int32, less `offset`. smallest: if given, kept elements are divided by their probability,
    or by this if it is larger.
    """

    ranks: Tensor
    offset: int
    step: float
    lowest: float
    keys: tuple[int, int]
    smallest: float | None = None
    row_length = None

    def words(self, masked: ModuleType) -> Any:
        """Return the address of the ranks and the numbers as 32-bit ones."""
        return masked.ByRank(
            self.ranks.data_ptr(),
            np.int16(0) if self.ranks.dtype == torch.int16 else np.int32(0),
            np.int32(self.offset),
            np.float32(self.step),
            np.float32(self.lowest),
            *map(np.int32, self.keys),
            None if self.smallest is None else np.float32(self.smallest),
        )

    def numbers(self, masked: ModuleType) -> Any:
        """Return the ranks and the numbers."""
        smallest = None if self.smallest is None else _rounded(self.smallest)
        fractions = _rounded(self.step), _rounded(self.lowest), smallest
        return masked.Numbers("rank", (*self.keys, self.offset), fractions, self.ranks)


class Vote(NamedTuple):
    """An election as the kernels take it: numbers per input.

    votes: the weight of a delta's vote. shares: the coefficients of agreeing deltas. divisors: what they add to the
    divisor, None for a sum. undecided: the sign if votes sum to zero, 0 for neither. by_sign: whether signs vote.
    """

    votes: tuple[float, ...]
    shares: tuple[float, ...]
    divisors: tuple[float, ...] | None
    undecided: int
    by_sign: bool

    def words(self) -> Any:
        """Return the arguments of the kernels, whose types distinguish common cases from others."""
        return (
            _numbers(self.votes),
            None if self.shares == self.votes and not self.by_sign else _numbers(self.shares),
            None if self.divisors is None else _numbers(self.divisors),
            None if self.divisors is None else _smallest(self.divisors),
            None if self.undecided > 0 else np.int32(self.undecided),
            np.int32(1) if self.by_sign else None,
        )


class Sparse(NamedTuple):
    """A merged tensor: the base plus `scale` times the sum, or the election, of masked deltas times their factors."""

    masks: Sequence[Mask]
    factors: Sequence[float]
    vote: Vote | None = None
    scale: float = 1.0


def write_sparse(
    sparse: Sparse,
    models: Sequence[Tensor],
    base: Tensor,
    place: Tensor,
    dtype: torch.dtype,
    pieces: Pieces,
    flag: Flag | None = None,
) -> bool:
    """Write a merged tensor in one pass; see `write_sum` for the arguments.

    Returns:
        Whether all results are written and, unless the flag will be set, finite. If not, `place` has arbitrary values.
    """
    lengths = {mask.row_length for mask in sparse.masks} or {None}
    suitable = place.dtype in (dtype, torch.float32) and 0 < len(models) <= MOST_INPUTS and len(lengths) == 1
    if not suitable or not place.numel():
        return False
    if on_gpu([place, *models, base]):
        return _write_on_gpu(sparse, models, base, place, dtype, flag)
    masked = kernels("masked")
    words = Words.of([place, *models, base]) if masked else None
    if masked is None or words is None:
        return False
    addresses, kinds = words.of_models(len(models))
    masks = tuple(mask.words(masked) for mask in sparse.masks)
    with np.errstate(over="ignore"):
        scale = None if sparse.scale == 1 else np.float32(sparse.scale)
        factors = None if all(factor == 1 for factor in sparse.factors) else _numbers(sparse.factors)
        vote = sparse.vote and sparse.vote.words()
    [length] = lengths
    (origin, _), (out, _) = words.last, words.first
    settings = (*words.last, vote, scale, *words.first, kinds_by_dtype()[dtype])
    kinds_of_pairs = tuple((kind,) * len(models) for kind in (masked.EVEN, masked.ODD))
    in_pairs = words.in_pairs and length in (None, place.numel())

    def write(start: int, stop: int) -> int:
        middle, largest = start, 0
        if in_pairs:
            middle = stop - (stop - start) % 2
            largest = masked.write_pairs(
                addresses, *kinds_of_pairs, masks, factors, origin, vote, scale, out, start, middle
            )
        if middle < stop:
            rest = masked.write(addresses, kinds, masks, factors, *settings, length or stop, middle, stop)
            largest = max(largest, rest)
        return int(largest)

    largest: int = max(pieces(write))
    return largest < overflow(dtype)


def _write_on_gpu(
    sparse: Sparse, models: Sequence[Tensor], base: Tensor, place: Tensor, dtype: torch.dtype, flag: Flag | None
) -> bool:
    masked = kernels_on_gpu("cuda_masked", place.device)
    masks = [mask.numbers(masked) for mask in sparse.masks] if masked is not None else []
    if masked is None or any(mask is None for mask in masks):
        return False
    vote, election = sparse.vote, None
    if vote is not None:
        election = *map(_all_rounded, (vote.votes, vote.shares)), vote.divisors and _all_rounded(vote.divisors)
    factors = None if all(factor == 1 for factor in sparse.factors) else _all_rounded(sparse.factors)
    flags = Flags(1, place.device)
    masked.write(
        models, masks, factors, election,
        vote.undecided if vote else 0, bool(vote and vote.by_sign), base, _rounded(sparse.scale),
        place, dtype, overflow(dtype), (flag or flags.at(0))(),
    )  # fmt: skip
    return not flags.raised()


def _rounded(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _all_rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(_rounded(value) for value in values)


def _smallest(values: Sequence[float]) -> Any:
    """Return the smallest positive one of some float32 numbers; 1 if there is none."""
    return min((value for value in _numbers(values) if value > 0), default=np.float32(1))


def _numbers(values: Sequence[float]) -> tuple[Any, ...]:
    return tuple(np.float32(value) for value in values)
