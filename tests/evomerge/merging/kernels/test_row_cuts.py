import numpy as np
import pytest
import torch

from evomerge.merging import tiles
from evomerge.merging.kernels.row_cuts import row_middle
from tests.contracts.merge_method import random_models
from tests.evomerge.merging.kernels.test_ranks import source


@pytest.mark.parametrize("shape", [(), (1,), (9,), (4, 1), (3, 5_001), (5, 700), (6, 2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "share", [(0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.4, 0.4), (0.0, 0.7), (0.3, 1.0), (0.25, 0.85)]
)
def test_elements_between_two_ranks_of_their_row_are_kept(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype, share: tuple[float, float]
) -> None:
    monkeypatch.setattr(tiles, "TILE", 1009)
    base, model = random_models(3, 1, dtype, shape)
    there = source(base, model)
    rows = (model.float() - base.float()).view(shape[0] if len(shape) > 1 else 1, -1).numpy()
    low, high = (int(bound * rows.shape[1]) for bound in share)
    middle = row_middle(there, 0, low, high)
    found = torch.cat([middle.keep(there.deltas(0, tile), tile).clone() for tile in there.tiles])
    expected = np.zeros_like(rows)
    for row, values in enumerate(rows):
        kept = np.argsort(-np.abs(values), kind="stable")[::-1][low:high]
        expected[row, kept] = values[kept]
    assert np.array_equal(found.numpy(), expected.reshape(-1))


def test_among_equals_the_first_are_the_larger() -> None:
    delta = torch.tensor([[1.0, -1, 1, -1, 1, -1], [2, 0, -0.0, 2, -2, 2]])
    there = source(torch.zeros_like(delta), delta)
    kept = row_middle(there, 0, 1, 4).keep(delta.clone().view(-1), there.entire)
    assert kept.view(2, 6).tolist() == [[0, 0, 1, -1, 1, 0], [0, 0, 0, 0, -2, 2]]


def test_infinities_and_missing_values_are_the_largest_of_all() -> None:
    nan, inf = float("nan"), float("inf")
    delta = torch.tensor([[1.0, nan, -inf, 3, 2, 0]])
    there = source(torch.zeros_like(delta), delta)
    assert row_middle(there, 0, 2, 4).keep(delta.clone().view(-1), there.entire).tolist() == [0, 0, 0, 3, 2, 0]
