import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.kernels import gram
from evomerge.merging.kernels.lines import Along, Lines
from tests.contracts.merge_method import NAMES, random_models


def source(models: list[Tensor], threads: int = 1) -> tiles.TensorSource:
    return tiles.TensorSource("x", NAMES[: len(models) - 1], models, seed=0, cache={}, workers=tiles.Workers(threads))


def wide(models: list[Tensor], of: gram.Of) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The vectors of base and inputs: (n_models, *shape), float64."""
    vectors = torch.stack([model.double() for model in models])
    if of == "deltas":
        vectors -= models[0].double()
    if of == "centred":
        vectors -= vectors.flatten(1).mean(1).view(-1, *[1] * models[0].dim())
    return vectors.numpy()


@pytest.mark.parametrize("of", ["weights", "deltas", "centred"])
@pytest.mark.parametrize("tile", [1009, tiles.TILE])
def test_dot_products_of_all_pairs(monkeypatch: pytest.MonkeyPatch, of: gram.Of, tile: int) -> None:
    monkeypatch.setattr(tiles, "TILE", tile)
    models = random_models(0, 3, torch.float32, (41, 1003))
    # Values far from zero: what is left after centring is small beside them.
    models = [model + 100 for model in models] if of == "centred" else models
    flat = wide(models, of).reshape(4, -1)
    there = source(models)
    expected = flat @ flat.T
    # A delta is a float32, as everywhere.
    tolerance = 1e-6 if of == "deltas" else 1e-12
    np.testing.assert_allclose(gram.gram(there, of), expected[1:, 1:], rtol=tolerance, atol=1e-4 * tolerance)
    if of == "deltas":
        with pytest.raises(ValueError, match="The base has no delta"):
            gram.gram(there, of, with_base=True)
    else:
        np.testing.assert_allclose(gram.gram(there, of, with_base=True), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("of", ["weights", "deltas"])
@pytest.mark.parametrize("along", ["row", "column"])
@pytest.mark.parametrize("shape", [(7,), (37, 53), (4, 6, 5), (3, 2500)])
def test_dot_products_by_row_and_by_column(
    monkeypatch: pytest.MonkeyPatch, of: gram.Of, along: Along, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(tiles, "TILE", 1009)
    models = random_models(1, 3, torch.float32, shape)
    vectors = wide(models, of)[1:]
    if along == "row" or len(shape) < 2:
        expected = np.einsum("irk,jrk->rij", *[vectors.reshape(3, -1, shape[-1])] * 2)
    else:
        expected = np.einsum("ikc,jkc->cij", *[vectors.reshape(3, shape[0], -1)] * 2)
    found = gram.line_grams(source(models), of, Lines.of(models[0].shape, along))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_models_are_read_once() -> None:
    models = random_models(0, 2, torch.float32)
    there = source(models)
    lines = Lines.of(models[0].shape, "row")
    before = [gram.gram(there, "weights"), gram.gram(there, "deltas"), gram.line_grams(there, "weights", lines)]
    before[0][:] = 0  # the caller's own
    for model in models:
        model.zero_()
    assert gram.gram(there, "weights").any()
    assert np.array_equal(gram.gram(there, "deltas"), before[1])
    assert np.array_equal(gram.line_grams(there, "weights", lines), before[2])


def test_cosines_are_finite_and_within_bounds() -> None:
    products = np.array([[4.0, 2.0 + 1e-15, 0.0], [2.0 + 1e-15, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert gram.cosines(products, 0.0)[0, 1] == 1
    assert gram.cosines(products, 0.0)[2].tolist() == [0, 0, 0]
    assert gram.cosines(products, 4.0)[0, 1] == pytest.approx(0.5)
