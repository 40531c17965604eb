from itertools import pairwise

import numpy as np
import pytest
import torch

from evomerge.merging.kernels.sparsify import drop_unevenly
from evomerge.merging.tiles import Scratch, Tile
from tests.evomerge.merging.masks import kept, uniform

SIZE = 1 << 20
ONES = torch.ones(SIZE)
GOLDEN = "011000011100110100111001101100100010110100011111"


@pytest.mark.parametrize("density", [0.03, 0.5, 0.9])
def test_masks_look_random(density: float) -> None:
    mask = (kept(ONES, 0, "math", density).numpy() - density) / np.sqrt(density * (1 - density))
    assert abs(mask.mean()) * np.sqrt(SIZE) < 4
    for lag in (*range(1, 40), *(2**k for k in range(6, 17)), *(3 * 2**k for k in range(5, 15))):
        correlation = np.mean(mask[lag:] * mask[:-lag])
        assert abs(correlation) * np.sqrt(SIZE - lag) < 5, lag
    blocks = mask.reshape(-1, 64).sum(axis=1) / 8
    assert abs(blocks.var() - 1) / np.sqrt(2 / len(blocks)) < 5


def test_masks_of_other_seeds_inputs_and_tensors_are_independent() -> None:
    first = kept(ONES, 0, "math", 0.5).numpy() * 2 - 1
    for other in (kept(ONES, 1, "math", 0.5), kept(ONES, 0, "code", 0.5), kept(ONES, 0, "math", 0.5, "y")):
        assert abs(np.mean(first * (other.numpy() * 2 - 1))) * np.sqrt(SIZE) < 5


def test_masks_are_nested_in_density() -> None:
    masks = [kept(ONES[:50_000], 3, "math", density) for density in (0, 1e-3, 0.2, 0.20001, 0.7, 1)]
    for smaller, larger in pairwise(masks):
        assert bool((smaller <= larger).all())
    assert int(masks[0].sum()) == 0
    assert int(masks[-1].sum()) == 50_000


def test_masks_stay_what_they_are() -> None:
    """Golden: a recipe's seed must give the same weights in every later version, on every machine."""
    assert "".join(str(int(bit)) for bit in kept(ONES[:48], 0, "math", 0.5)) == GOLDEN


def test_an_element_stays_where_its_number_is_below_its_probability() -> None:
    like = torch.ones(20_000)
    numbers = uniform(like, 5, "math")
    for density in (0.001, 0.25, 0.9):
        assert torch.equal(kept(like, 5, "math", density), (numbers < density).double())
    probability = torch.linspace(-0.01, 1.01, len(like))
    tile = Tile("x", ("math",), 5, 0, len(like), Scratch())
    mask = drop_unevenly(like.clone(), tile, 0, probability)
    assert torch.equal(mask.double(), (numbers < probability.double()).double())
