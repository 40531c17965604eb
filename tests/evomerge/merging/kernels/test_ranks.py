import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.kernels.ranks import row_ranks
from tests.contracts.merge_method import NAMES, random_models


def source(base: Tensor, model: Tensor) -> tiles.TensorSource:
    return tiles.TensorSource("x", NAMES[:1], [base, model], seed=0, cache={}, workers=tiles.Workers(1))


@pytest.mark.parametrize("shape", [(), (1,), (9,), (4, 1), (3, 70_001), (5, 700), (6, 2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_in_rows_the_first_of_equals_is_the_larger(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(tiles, "TILE", 1009)
    base, model = random_models(3, 1, dtype, shape)
    there = source(base, model)
    ranks = row_ranks(there, 0)
    found = torch.cat([ranks.of(tile, torch.empty(tile.stop - tile.start)).clone() for tile in there.tiles])
    magnitudes = (model.float() - base.float()).abs().view(shape[0] if len(shape) > 1 else 1, -1).numpy()
    expected = np.empty(magnitudes.shape, dtype=np.int64)
    for row, values in enumerate(magnitudes):
        expected[row, np.argsort(-values, kind="stable")] = np.arange(len(values))[::-1]
    assert np.array_equal(found.numpy(), expected.reshape(-1))
    assert ranks.stored.element_size() == (4 if 70_001 in shape else 2)
