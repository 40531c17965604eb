"""Rows and columns of a tensor, accessed through tiles that begin and end anywhere in them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.tiles import TensorSource, Tile

#: "row": vectors along the last dimension. "column": vectors along the first one.
Along = Literal["row", "column"]


@dataclass(frozen=True)
class Lines:
    """A tensor as `count` vectors. stride: consecutive elements in memory before the pattern repeats."""

    along: Along
    count: int
    stride: int

    @classmethod
    def of(cls, shape: torch.Size, along: Along) -> "Lines":
        """Return the rows or columns of a non-empty tensor; with fewer than two dimensions it is a single vector."""
        numel = math.prod(shape)
        if len(shape) < 2:
            return cls("row", 1, numel)
        if along == "row":
            return cls("row", numel // shape[-1], shape[-1])
        return cls("column", numel // shape[0], numel // shape[0])

    def scale(self, values: Tensor, factors: Tensor, tile: Tile) -> Tensor:
        """Multiply each vector by its factor, in place. values: the tile's; factors: (count,), float32."""
        head = min(-tile.start % self.stride, len(values))
        whole = (len(values) - head) // self.stride
        first, middle, last = torch.split(values, [head, whole * self.stride, len(values) - head - whole * self.stride])
        if self.along == "column":
            first.mul_(factors[self.stride - (-tile.start % self.stride) :][:head])
            middle.view(whole, self.stride).mul_(factors)
            last.mul_(factors[: len(last)])
            return values
        row = tile.start // self.stride
        first.mul_(factors[row])
        row = (tile.start + head) // self.stride
        middle.view(whole, self.stride).mul_(factors[row : row + whole, None])
        if len(last):
            last.mul_(factors[row + whole])
        return values


def blocks(source: TensorSource, stride: int) -> Iterator[tuple[int, int]]:
    """Yield ranges [start, stop) of whole strides of a tensor, about a tile's elements each, at least one stride."""
    n_strides = source.numel // stride
    size = max(tiles.TILE // stride, 1)
    for start in range(0, n_strides, size):
        yield start, min(start + size, n_strides)


def block(source: TensorSource, model: int, stride: int, start: int, stop: int) -> Tensor:
    """Return strides [start, stop) of a model's tensor: (stop - start, stride), float32, a copy."""
    return source.whole(model).reshape(-1, stride)[start:stop].to(torch.float32, copy=True)
