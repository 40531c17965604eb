"""The mask of a random method at every element, from the generator by itself."""

import hashlib
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.kernels.sparsify import drop_at_random
from evomerge.merging.tiles import TILE, Scratch, Tile


def kept(like: Tensor, seed: int, input_name: str, density: float, tensor: str = "x") -> Tensor:
    """1 where the delta of `input_name` stays, else 0; of `like`'s shape, float64."""
    mask = torch.ones(like.numel())
    for start in range(0, like.numel(), TILE):
        part = mask[start : start + TILE]
        tile = Tile(tensor, (input_name,), seed, start, start + len(part), Scratch())
        drop_at_random(part, tile, 0, density)
    return mask.double().view(like.shape)


def uniform(like: Tensor, seed: int, input_name: str, tensor: str = "x") -> Tensor:
    """The number in [0, 1) of each element that is compared with its probability, written down a second time."""
    key = hashlib.blake2b(f"{seed}\0{tensor}\0{input_name}".encode(), digest_size=8).digest()
    offset, shift = np.frombuffer(key, dtype="<u4")
    bits = np.arange(like.numel(), dtype=np.uint32) * np.uint32(0x9E3779B9) + offset
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    bits = ((bits ^ (bits >> np.uint32(15))) + shift) * np.uint32(0xD35A2D97)
    signed = bits.view(np.int32).astype(np.float64)
    return torch.from_numpy(np.floor(signed / 2) / 2**31 + 0.5).view(like.shape)


def mean_over_masks(merge: Callable[[int], Tensor], mask: Callable[[int], Tensor], probabilities: Tensor) -> Tensor:
    """The exact mean of the merges that all seeds make: one of each mask, weighted by how probable the mask is.

    merge, mask: of a seed. probabilities: that an element is kept, of as few elements as there are.
    """
    seeds: dict[tuple[bool, ...], int] = {}
    for seed in itertools.count():
        seeds.setdefault(tuple(mask(seed).bool().tolist()), seed)
        if len(seeds) == 2 ** len(probabilities):
            break
    parts = [
        torch.where(torch.tensor(kept), probabilities, 1 - probabilities).prod() * merge(seed)
        for kept, seed in seeds.items()
    ]
    return torch.stack(parts).sum(0)
