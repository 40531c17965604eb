import pytest
import torch

from evomerge.merging.kernels.lines import Along, Lines
from evomerge.merging.tiles import Scratch, Tile


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 1), (1, 5), (4, 6), (3, 4, 5)])
@pytest.mark.parametrize("along", ["row", "column"])
@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 100])
def test_tiles_scale_what_whole_vectors_would(shape: tuple[int, ...], along: Along, size: int) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    lines = Lines.of(values.shape, along)
    factors = torch.arange(1.0, lines.count + 1)
    if len(shape) < 2:
        expected = values.clone()
    elif along == "row":
        expected = values * factors.view(*shape[:-1], 1)
    else:
        expected = values * factors.view(1, *shape[1:])
    flat = values.reshape(-1)
    for start in range(0, len(flat), size):
        stop = min(start + size, len(flat))
        tile = Tile("x", (), 0, start, stop, Scratch())
        assert lines.scale(flat[start:stop], factors, tile) is not None
    assert torch.equal(values, expected)
