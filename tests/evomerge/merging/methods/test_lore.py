from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models

DIAGONALS = [torch.diag(torch.tensor(values)) for values in ([3.0, 1], [1.0, 2], [2.0, 6])]


class TestLore(MergeMethodContract):
    name = "lore"
    values = fixed({"weight": [1.0, 0.7, 1.2], "mu": 0.1, "scale": 0.8})
    one_hot = None  # the estimated base is that of all models
    scales = False  # the threshold is in units of the weights
    rotates = True


@pytest.mark.slow
class TestLoreRelative(MergeMethodContract):
    name = "lore"
    options = fixed({"threshold": "relative", "aggregate": "sum", "iterations": 5})
    values = fixed({"mu": 0.3})
    one_hot = None  # as above
    rotates = True


@pytest.mark.slow
class TestLoreByTies(MergeMethodContract):
    name = "lore"
    options = fixed({"threshold": "relative", "aggregate": "ties", "iterations": 3})
    values = fixed({"mu": 0.2, "weight": [1.0, 0.7, 1.2], "density": [0.3, 0.5, 1.0], "scale": 0.8})
    one_hot = None  # as above
    rotates = False  # an election is one of elements


@pytest.mark.slow
class TestLoreWithoutThreshold(MergeMethodContract):
    name = "lore"
    options = fixed({"iterations": 2})
    values = fixed({"mu": 0.0})
    one_hot = None  # as above
    averages = True
    rotates = True


def lore(inputs: list[Tensor], values: dict[str, Any], base: Tensor | None = None, **options: Any) -> Tensor:
    start = torch.zeros_like(inputs[0]) if base is None else base
    return merged("lore", start, inputs, values, options=options)


def reference(inputs: list[Tensor], mu: float, iterations: int) -> tuple[Any, list[Any]]:
    """The two steps of the paper in turn, as written."""
    models = [x.double().numpy() for x in inputs]
    deltas = [np.zeros_like(x) for x in models]
    for _ in range(iterations):
        base = sum(x - d for x, d in zip(models, deltas, strict=True)) / len(models)
        deltas = []
        for x in models:
            left, values, right = np.linalg.svd(x - base, full_matrices=False)
            deltas.append(left * np.maximum(values - mu, 0) @ right)
    return base, deltas


@pytest.mark.parametrize("shape", [(14, 23), (23, 14), (12, 12)])
@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_against_the_steps_as_written(shape: tuple[int, int], iterations: int) -> None:
    base, *inputs = random_models(1, 3, torch.float32, shape)
    found, deltas = reference(inputs, 0.15, iterations)
    for aggregate, share in (("average", 1 / 3), ("sum", 1.0)):
        values = {"mu": 0.15, "weight": [1, 0.5, 2], "scale": 1.5}
        result = lore(inputs, values, base, aggregate=aggregate, iterations=iterations)
        wanted = found + 1.5 * share * (deltas[0] + 0.5 * deltas[1] + 2 * deltas[2])
        torch.testing.assert_close(result, torch.from_numpy(wanted).float(), rtol=1e-5, atol=1e-6)


def test_by_ties_the_low_rank_deltas_are_trimmed_and_elected() -> None:
    base, *inputs = random_models(1, 3, torch.float32, (14, 23))
    weight, density = np.array([1, 0.5, 2]), (0.3, 0.5, 1.0)
    found, deltas = reference(inputs, 0.1, 3)
    flat = np.stack([delta.ravel() for delta in deltas])
    for delta, share in zip(flat, density, strict=True):
        delta[np.argsort(-np.abs(delta), kind="stable")[int(share * delta.size) :]] = 0
    votes = weight[:, None] * flat
    agrees = votes * np.where(votes.sum(0) >= 0, 1, -1) > 0
    divisor = (weight[:, None] * agrees).sum(0)
    wanted = found + 1.5 * ((votes * agrees).sum(0) / np.where(divisor == 0, 1, divisor)).reshape(14, 23)
    values = {"mu": 0.1, "weight": weight.tolist(), "density": density, "scale": 1.5}
    result = lore(inputs, values, base, aggregate="ties", iterations=3)
    torch.testing.assert_close(result, torch.from_numpy(wanted).float(), rtol=1e-5, atol=2e-6)
    assert not np.allclose(wanted, reference(inputs, 0.1, 3)[0], atol=1e-3)


def test_a_density_that_is_no_share_is_refused() -> None:
    with pytest.raises(MethodError, match=r"between 0 and 1; it is 1\.5"):
        lore(DIAGONALS, {"density": 1.5, "mu": 0.1}, aggregate="ties")


def test_worked_example() -> None:
    for iterations, second in enumerate((3.0, 2.833333, 2.666667, 2.5), 1):
        found = lore(DIAGONALS, {"mu": 0.5, "scale": 0.0}, iterations=iterations)
        torch.testing.assert_close(found, torch.diag(torch.tensor([2.0, second])), rtol=0, atol=2e-6)
    for index, entries in enumerate(([0.5, -1], [-0.5, 0], [0.0, 3])):
        alone = {"mu": 0.5, "weight": [float(index == other) for other in range(3)]}
        found = lore(DIAGONALS, alone, iterations=4, aggregate="sum") - torch.diag(torch.tensor([2.0, 2.5]))
        torch.testing.assert_close(found, torch.diag(torch.tensor(entries)), rtol=0, atol=2e-6)
    average = lore(DIAGONALS, {"mu": 0.5}, iterations=4)
    torch.testing.assert_close(average, torch.diag(torch.tensor([2.0, 3.166667])), rtol=0, atol=2e-6)
    summed = lore(DIAGONALS, {"mu": 0.5}, iterations=4, aggregate="sum")
    torch.testing.assert_close(summed, torch.diag(torch.tensor([2.0, 4.5])), rtol=0, atol=2e-6)


def test_no_base_is_needed() -> None:
    base, *inputs = random_models(1, 3, torch.float32)
    result = lore(inputs, {"mu": 0.1}, base)
    torch.testing.assert_close(result, lore(inputs, {"mu": 0.1}, base.flip(0)), rtol=0, atol=2e-6)


def test_without_a_threshold_the_average_and_with_a_large_one_nothing_but_it() -> None:
    base, *inputs = random_models(1, 3, torch.float32)
    mean = torch.stack(inputs).mean(0)
    torch.testing.assert_close(lore(inputs, {"mu": 0.0}, base), mean, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(lore(inputs, {"mu": 9.0, "scale": 2.0}, base), mean, rtol=1e-6, atol=1e-7)


def test_a_relative_threshold_is_a_share_of_the_largest_singular_value() -> None:
    largest = 3.0  # of the differences diag(1, -2), diag(-1, -1), diag(0, 3) to the mean
    relative = lore(DIAGONALS, {"mu": 0.5 / largest}, threshold="relative", iterations=4)
    torch.testing.assert_close(relative, lore(DIAGONALS, {"mu": 0.5}, iterations=4), rtol=1e-6, atol=0)


def test_tensors_that_are_no_matrices_get_the_mean() -> None:
    result = lore([torch.tensor([1.0, 2]), torch.tensor([3.0, 0])], {"weight": [5.0, 0.0], "scale": 2.0})
    torch.testing.assert_close(result, torch.tensor([2.0, 1.0]))


def test_invalid_mu_and_iterations_are_errors() -> None:
    with pytest.raises(MethodError, match=r"mu must be 0 or more .* they are -1\.0 and 20"):
        lore(DIAGONALS, {"mu": -1.0})
    with pytest.raises(MethodError, match=r"iterations 1 or more; they are 0\.01 and 0"):
        lore(DIAGONALS, {}, iterations=0)


def test_new_weights_reuse_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    base, *inputs = random_models(1, 2, torch.float32)
    engine, into = make_engine({"x": base}, [{"x": x} for x in inputs]), {"x": base.clone()}
    engine.apply(make_merge("lore", 2, {}), into)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    engine.apply(make_merge("lore", 2, {"weight": [0.5, 2.0], "scale": 0.3}), into)
    with pytest.raises(TypeError):
        engine.apply(make_merge("lore", 2, {"mu": 0.5}), into)
