"""The mask of a random method at every element, from the generator by itself."""

import torch
from torch import Tensor

from evomerge.merging.sparsify import drop_at_random
from evomerge.merging.tiles import TILE, Scratch, Tile


def kept(like: Tensor, seed: int, input_name: str, density: float, tensor: str = "x") -> Tensor:
    """1 where the delta of `input_name` stays, else 0; of `like`'s shape, float64."""
    mask = torch.ones(like.numel())
    for start in range(0, like.numel(), TILE):
        part = mask[start : start + TILE]
        tile = Tile(tensor, (input_name,), seed, start, start + len(part), Scratch())
        drop_at_random(part, tile, 0, density)
    return mask.double().view(like.shape)
