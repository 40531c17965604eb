import math

import numpy as np
import pytest
import torch

from evomerge.merging.methods.darex_q import analytic_q
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.masks import kept
from tests.evomerge.merging.vectors import merged_delta

VALUES = {"weight": [0.3, -0.2, 0.8], "density": [0.3, 0.5, 0.9], "inverse_q": [2.0, 1.5, 1.1], "scale": 1.1}


class TestDarexQ(MergeMethodContract):
    name = "darex_q"
    values = VALUES
    one_hot = fixed({"density": [1.0] * 3, "inverse_q": [1.0] * 3})


@pytest.mark.slow
class TestDarexQAtTheInverseDensity(MergeMethodContract):
    name = "darex_q"
    values = fixed({"weight": [0.3, -0.2, 0.8], "density": [0.25, 0.5, 0.8], "inverse_q": [4.0, 2.0, 1.25]})
    one_hot = fixed({"density": [1.0] * 3, "inverse_q": [1.0] * 3})
    unbiased = True


def test_against_whole_tensors_in_float64() -> None:
    base, *inputs = random_models(4, 3, torch.bfloat16, (70, 1003))
    result = merged("darex_q", base, inputs, VALUES, dtype=torch.float32, seed=9)
    expected = base.double()
    for i, (model, name) in enumerate(zip(inputs, ("math", "code", "chat"), strict=True)):
        weight, density, inverse = (VALUES[key][i] for key in ("weight", "density", "inverse_q"))  # type: ignore[index]
        delta = model.double() - base.double()
        expected = expected + 1.1 * weight * inverse * delta * kept(delta, 9, name, density)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)


def test_the_inverse_density_is_dare() -> None:
    values = fixed({"weight": [0.5, 0.3, 0.2], "density": [0.5, 0.25, 0.125]})
    result = merged_delta("darex_q", {**values, "inverse_q": [2, 4, 8]})
    assert torch.equal(result, merged_delta("dare_linear", values))
    defaults = merged_delta("darex_q", {})
    torch.testing.assert_close(defaults, merged_delta("dare_linear", {"density": [0.1] * 3}))


CONTRIBUTIONS = np.array([[0.2, -0.1, 0.3], [0.5, 0.4, 0.1]])


def test_worked_examples_of_the_analytic_q() -> None:
    assert analytic_q(CONTRIBUTIONS, 0.1).round(3).tolist() == [0.287, 0.344]
    assert analytic_q(CONTRIBUTIONS, 0.1, eta=1.0).round(3).tolist() == [0.637, 0.765]


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.7])
@pytest.mark.parametrize("eta", [0.3, 1.0, 5.0])
def test_no_other_q_has_a_smaller_objective(density: float, eta: float) -> None:
    random = np.random.default_rng(0)
    rows = np.concatenate([random.normal(size=(30, 12)), -np.abs(random.normal(size=(5, 12))), np.zeros((1, 12))])
    dropped = 1 - density
    phi = 0.5 if dropped == 0.5 else (1 - 2 * dropped) / math.log((1 - dropped) / dropped)
    grid = np.linspace(density, 0.998, 20001)

    def objective(q: np.ndarray, row: np.ndarray) -> np.ndarray:
        mean = eta * (1 - density / q) * row.sum()
        return np.abs(mean + eta**2 * phi * np.square(row).sum() / (4 * q**2) + math.log(2 / 0.05))

    for row, q in zip(rows, analytic_q(rows, density, eta=eta), strict=True):
        assert density <= q <= 0.998
        assert objective(q, row) <= objective(grid, row).min() + 1e-9


def test_shares_outside_of_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a density between 0 and 1; it is 1"):
        analytic_q(CONTRIBUTIONS, 1.0)
    with pytest.raises(ValueError, match="needs a certainty between 0 and 1; it is 0"):
        analytic_q(CONTRIBUTIONS, 0.1, certainty=0.0)
