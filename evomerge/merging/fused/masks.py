"""Sums and elections of sparse deltas in one compiled pass: the masks of methods, and the call of the kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.fused.tensors import Pieces, Words, kernels, kinds_by_dtype, overflow

#: More inputs than this do not fit into the registers, and are left to PyTorch.
MOST_INPUTS = 8


class Mask(Protocol):
    """The elements of an input's delta that are kept."""

    @property
    def row_length(self) -> int | None:
        """Elements of a row, if the mask differs between rows."""

    def words(self, masked: ModuleType) -> Any:
        """Return the mask as an argument of the kernels."""


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
    sparse: Sparse, models: Sequence[Tensor], base: Tensor, place: Tensor, dtype: torch.dtype, pieces: Pieces
) -> bool:
    """Write a merged tensor in one pass; see `write_sum` for the arguments.

    Returns:
        Whether all results are written and finite. If not, `place` has arbitrary values.
    """
    masked = kernels("masked")
    words = Words.of([place, *models, base]) if masked else None
    lengths = {mask.row_length for mask in sparse.masks} or {None}
    suitable = place.dtype in (dtype, torch.float32) and 0 < len(models) <= MOST_INPUTS and len(lengths) == 1
    if masked is None or words is None or not suitable or not place.numel():
        return False
    addresses, kinds = words.of_models(len(models))
    masks = tuple(mask.words(masked) for mask in sparse.masks)
    with np.errstate(over="ignore"):
        scale = np.float32(sparse.scale)
        factors = None if all(factor == 1 for factor in sparse.factors) else _numbers(sparse.factors)
        vote = sparse.vote and sparse.vote.words()
    [length] = lengths
    settings = (*words.last, vote, scale, *words.first, kinds_by_dtype()[dtype])

    def write(start: int, stop: int) -> int:
        return int(masked.write(addresses, kinds, masks, factors, *settings, length or stop, start, stop))

    largest: int = max(pieces(write))
    return largest < overflow(dtype)


def _numbers(values: Sequence[float]) -> tuple[Any, ...]:
    return tuple(np.float32(value) for value in values)
