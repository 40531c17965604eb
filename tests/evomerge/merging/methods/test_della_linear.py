from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.masks import mean_over_masks, uniform
from tests.evomerge.merging.vectors import DELTAS, merged_delta

VALUES = {"weight": [0.3, -0.2, 0.8], "density": [0.3, 0.5, 0.9], "epsilon": [0.1, 0.3, 0.05], "scale": 1.1}
WHOLE = fixed({"density": [1.0, 1.0, 1.0]})


class TestDellaLinear(MergeMethodContract):
    name = "della_linear"
    values = VALUES
    one_hot = WHOLE


@pytest.mark.slow
class TestUnscaledDellaLinear(MergeMethodContract):
    name = "della_linear"
    options = fixed({"rescale": "paper"})
    values = fixed({**VALUES, "scale": 1.0})
    one_hot = WHOLE
    unbiased = True


@pytest.mark.slow
class TestDellaLinearAsMergekit(MergeMethodContract):
    name = "della_linear"
    options = fixed({"rescale": "mergekit", "normalize": True})
    values = fixed({**VALUES, "weight": [0.3, 0.2, 0.8]})
    one_hot = WHOLE
    linear = False  # in its weights, which are normalized


def probabilities(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """By a stable sort of each row, float64."""
    rows = delta.abs().view(delta.shape[0] if delta.dim() > 1 else 1, -1).numpy()
    found = np.empty(rows.shape)
    for row, values in enumerate(rows):
        steps = np.linspace(density + epsilon, density - epsilon, len(values))
        found[row, np.argsort(-values, kind="stable")] = steps
    return torch.from_numpy(found).view(delta.shape)


def thinned(delta: Tensor, name: str, density: float, epsilon: float, rescale: str, seed: int) -> Tensor:
    """A delta (float64) as one input contributes it, by the definition."""
    probability = probabilities(delta, density, epsilon)
    kept = delta * (uniform(delta, seed, name) < probability)
    if rescale == "paper":
        return kept / probability
    return kept * float(delta.abs().sum() / kept.abs().sum()) if rescale == "mergekit" else kept


@pytest.mark.parametrize("rescale", ["paper", "mergekit", "none"])
@pytest.mark.parametrize("shape", [(70, 103), (400,), (6, 5, 7)])
def test_against_whole_tensors_in_float64(rescale: str, shape: tuple[int, ...]) -> None:
    base, *inputs = random_models(4, 3, torch.bfloat16, shape)
    result = merged("della_linear", base, inputs, VALUES, options={"rescale": rescale}, dtype=torch.float32, seed=9)
    expected = base.double()
    for i, model in enumerate(inputs):
        density, epsilon = VALUES["density"][i], VALUES["epsilon"][i]  # type: ignore[index]
        part = thinned(model.double() - base.double(), ("math", "code", "chat")[i], density, epsilon, rescale, 9)
        expected = expected + 1.1 * VALUES["weight"][i] * part  # type: ignore[index]
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


def test_worked_example_of_probabilities() -> None:
    assert probabilities(DELTAS[0], 0.5, 0.2).tolist() == pytest.approx([0.7, 0.62, 0.54, 0.46, 0.3, 0.38])
    values = {"density": [0.5], "epsilon": [0.2]}
    all_kept = torch.tensor([5.714286, -4.83871, 3.703704, 2.173913, 0.333333, -1.315789])
    for seed in range(20):
        result = merged("della_linear", torch.zeros(6), DELTAS[:1], values, seed=seed)
        near = torch.isclose(result, all_kept, rtol=1e-5) | (result == 0)
        assert bool(near.all()), result


def test_mean_over_the_masks() -> None:
    values = {"density": [0.5], "epsilon": [0.2]}
    rows = DELTAS[0].expand(20_000, 6)  # of each, the magnitudes are ranked alone
    drawn = merged("della_linear", torch.zeros(20_000, 6), [rows], values, options={"rescale": "paper"})
    error = drawn.std(0) / len(drawn) ** 0.5
    assert bool(((drawn.mean(0) - DELTAS[0]).abs() < 4 * error).all())


def test_mergekits_factor_makes_large_elements_larger_still() -> None:
    values = {"density": [0.5], "epsilon": [0.2]}
    options = {"rescale": "mergekit"}
    chances = probabilities(DELTAS[0], 0.5, 0.2)
    mean = mean_over_masks(
        lambda seed: merged("della_linear", torch.zeros(6), DELTAS[:1], values, options=options, seed=seed),
        lambda seed: uniform(DELTAS[0], seed, "math") < chances,
        chances,
    )
    by_fractions = [4.180180, -2.927573, 1.861189, 0.931647, 0.119137, -0.450001]
    assert mean.tolist() == pytest.approx(by_fractions, abs=2e-6)


def test_without_epsilon_it_is_dare() -> None:
    values = {"weight": [0.3, -0.2, 0.8], "density": [0.3, 0.5, 0.9]}
    for rescale in ("paper", "mergekit", "none"):
        options = {"rescale": rescale}
        base, *inputs = random_models(0, 3, torch.float32)
        result = merged("della_linear", base, inputs, {**values, "epsilon": [0.0] * 3}, options=options)
        torch.testing.assert_close(result, merged("dare_linear", base, inputs, values, options=options))


def test_rows_of_one_element_are_kept_by_the_density() -> None:
    base, model = torch.zeros(5000, 1), torch.ones(5000, 1)
    result = merged("della_linear", base, [model], {"density": [0.3], "epsilon": [0.2]}, options={"rescale": "none"})
    assert float(result.mean()) == pytest.approx(0.3, abs=4 * (0.21 / 5000) ** 0.5)


def _delta(density: float, epsilon: float, **options: Any) -> Tensor:
    values = {"density": [density], "epsilon": [epsilon]}
    return merged("della_linear", torch.zeros(6), DELTAS[:1], values, options=options)


def test_a_wide_epsilon_is_narrowed_or_refused() -> None:
    assert torch.equal(_delta(0.3, 0.5), _delta(0.3, 0.3))
    assert torch.equal(_delta(0.75, 0.5), _delta(0.75, 0.25))
    with pytest.raises(MethodError, match=r"density 0.3 plus and minus epsilon 0.3 .* less than 0.3"):
        _delta(0.3, 0.3, compat="mergekit")
    assert torch.equal(_delta(1, 0.3, compat="mergekit"), DELTAS[0])
    assert _delta(0, 0.3, compat="mergekit").tolist() == [0] * 6
    with pytest.raises(MethodError, match=r"epsilon -0.1"):
        _delta(0.3, -0.1)


def test_density_one_is_task_arithmetic() -> None:
    values = fixed({"weight": [0.5, 0.3, 0.2]})
    result = merged_delta("della_linear", {**values, "density": [1] * 3})
    assert torch.equal(result, merged_delta("task_arithmetic", values))
