"""TALL masks: the weights of a merged delta that a task needs (Wang et al., 2024), https://arxiv.org/abs/2405.07813."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.tiles import TensorSource, Tile


def check_task(sources: Iterable[TensorSource], *, task: str = "") -> None:
    """Raise MethodError for a task that is not one of the inputs."""
    if task:
        names = dict.fromkeys(name for source in sources for name in source.input_names)
        if task not in names:
            raise MethodError(f"task must name the input to reconstruct, one of {', '.join(names)}; it is {task!r}.")


def needed(delta: Tensor, merged: Tensor, threshold: float, tile: Tile) -> Tensor:
    """Return 1 where |delta| > threshold * |merged - delta|, else 0, in memory that the next call reuses."""
    rest = torch.sub(merged, delta, out=tile.scratch("rest", delta)).abs_().mul_(threshold)
    return torch.gt(torch.abs(delta, out=tile.scratch("size", delta)), rest, out=rest)


def kept(
    deltas: Sequence[Tensor], merged: Tensor, threshold: Sequence[float], tile: Tile, *, votes: int, task: str
) -> Tensor:
    """Return 1 where at least `votes` inputs, or the input `task`, need the merged delta, else 0."""
    if task:
        index = tile.input_names.index(task)
        return needed(deltas[index], merged, threshold[index], tile)
    count = tile.scratch("count", merged).zero_()
    for delta, value in zip(deltas, threshold, strict=True):
        count.add_(needed(delta, merged, value, tile))
    return torch.ge(count, votes, out=count)
