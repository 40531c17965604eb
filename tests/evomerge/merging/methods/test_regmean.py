from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.prepared import MergeError
from evomerge.merging.tiles import Moments
from tests.contracts.merge_method import (
    NAMES,
    MergeMethodContract,
    Statistics,
    fixed,
    make_engine,
    make_merge,
    merged,
    random_models,
)
from tests.evomerge.merging.methods.informed import statistics


class TestRegMean(MergeMethodContract):
    name = "regmean"
    values = fixed({"weight": [0.25, 0.5, 0.75]})
    averages = True

    def moments(self, model: str, tensors: Mapping[str, Tensor]) -> Moments | None:
        return statistics(model, tensors, "gram")


@pytest.mark.slow
class TestAsPublished(TestRegMean):
    values = fixed({"weight": [1.0, 1.0, 1.0], "off_diagonal": 1.0})
    options = fixed({"ridge": 0.0})


EXACT = fixed({"ridge": 0.0})
W1, W2 = torch.eye(2), torch.tensor([[3.0, 1.0], [1.0, 2.0]])
G1, G2 = torch.tensor([[2.0, 1.0], [1.0, 1.0]]), torch.diag(torch.tensor([1.0, 2.0]))


def regmean(
    models: Sequence[Tensor], grams: Sequence[Tensor], weight: Any = 1.0, base: Tensor | None = None, **given: Any
) -> Tensor:
    """Of layers stored (out, in), without ridge and shrinkage unless they are given."""
    marks = given.pop("marks", {})
    moments = [None, *(Statistics({"gram/x": gram, **marks}) for gram in grams)]
    values = {"weight": weight, "off_diagonal": given.pop("off_diagonal", 1.0)}
    base = torch.zeros_like(models[0]) if base is None else base
    return merged("regmean", base, models, values, moments=moments, **{"options": EXACT, **given})


@pytest.mark.parametrize(
    ("off_diagonal", "expected"),
    [
        (1.0, [[1.5, 0.5], [0.125, 1.625]]),
        (0.5, [[1.571429, 0.571429], [0.228571, 1.628571]]),
        (0.0, [[1.666667, 0.666667], [0.333333, 1.666667]]),
    ],
)
def test_worked_examples(off_diagonal: float, expected: list[list[float]]) -> None:
    result = regmean([W1, W2], [G1, G2], off_diagonal=off_diagonal)
    torch.testing.assert_close(result, torch.tensor(expected), rtol=0, atol=2e-6)
    base = torch.tensor([[0.5, -2.0], [1.0, 7.0]])
    torch.testing.assert_close(regmean([W1, W2], [G1, G2], base=base, off_diagonal=off_diagonal), result)


def layers(seed: int, n_out: int = 7, n_in: int = 5) -> tuple[list[Tensor], list[Tensor]]:
    """Three layers near each other, and the second moment of what each of them reads."""
    _, *models = random_models(seed, 3, torch.float32, (n_out, n_in))
    found = [statistics(name, {"x": models[0]}, "gram")["gram/x"] for name in NAMES[:3]]
    return models, found


def test_the_normal_equations_hold_and_the_outputs_differ_least() -> None:
    models, grams = layers(1)
    weight = (0.2, 0.9, 0.4)
    result = regmean(models, grams, weight, base=models[0] + 0.1).double().numpy()
    pairs = [(w, g.double().numpy(), m.double().numpy()) for w, g, m in zip(weight, grams, models, strict=True)]
    left = sum(w * g for w, g, _ in pairs) @ result.T
    right = sum(w * g @ m.T for w, g, m in pairs)
    assert np.abs(left - right).max() < 1e-4 * np.abs(right).max()

    def loss(merge: Any) -> float:
        return sum(w * np.trace((merge - m) @ g @ (merge - m).T) for w, g, m in pairs)

    random = np.random.default_rng(3)
    assert all(loss(result) < loss(result + 1e-3 * random.normal(size=result.shape)) for _ in range(20))


def test_shrinkage_and_ridge_are_what_they_say() -> None:
    models, grams = layers(2)
    a, ridge = 0.7, 0.01
    result = regmean(models, grams, base=models[0] - 0.1, off_diagonal=a, options={"ridge": ridge})
    shrunk = []
    for gram in grams:
        g = gram.double().numpy()
        diagonal = np.diag(g)
        shrunk.append(a * g + np.diag((1 - a) * diagonal + ridge * diagonal + ridge * diagonal.mean()))
    expected = np.linalg.solve(
        sum(shrunk), sum(g @ m.double().numpy().T for g, m in zip(shrunk, models, strict=True))
    ).T
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_layers_stored_the_other_way_round_and_rows_in_any_order() -> None:
    models, grams = layers(5, 5, 5)
    result = regmean(models, grams)
    mark = {"transposed/x": torch.ones(1)}
    turned = regmean([model.T.contiguous() for model in models], grams, marks=mark)
    torch.testing.assert_close(turned.T, result)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(regmean([model[order] for model in models], grams), result[order])


def test_equal_moments_and_scaled_moments() -> None:
    models, grams = layers(6)
    average = (models[0] * 0.5 + models[1] * 0.25 + models[2] * 0.25).float()
    torch.testing.assert_close(regmean(models, [grams[0]] * 3, (2, 1, 1)), average)
    torch.testing.assert_close(regmean(models, [gram * 1e-12 for gram in grams]), regmean(models, grams))
    torch.testing.assert_close(regmean(models, grams, (2, 1, 1)), regmean(models, [grams[0] * 2, *grams[1:]]))


def test_without_off_diagonal_every_input_has_its_own_weights() -> None:
    models, grams = layers(7)
    shares = torch.stack([gram.diagonal() for gram in grams])
    expected = sum(model * share for model, share in zip(models, shares / shares.sum(0), strict=True))
    torch.testing.assert_close(regmean(models, grams, off_diagonal=0.0), expected)


def test_inputs_that_the_data_never_used() -> None:
    """Fewer tokens than inputs, one input always zero: the average where nothing is known, nothing wild anywhere."""
    models, _ = layers(8, 6, 40)
    random = torch.Generator().manual_seed(2)
    rows = [torch.randn(9, 40, generator=random) for _ in models]
    for row in rows:
        row[:, 3] = 0
    grams = [row.T @ row / 9 for row in rows]
    base = models[0] + 0.05
    for off_diagonal in (1.0, 0.9):
        result = regmean(models, grams, base=base, off_diagonal=off_diagonal, options={"ridge": 1e-5})
        sizes = torch.stack([gram.trace() for gram in grams])
        mean = torch.einsum("i,imn->mn", sizes / sizes.sum(), torch.stack(models))
        torch.testing.assert_close(result[:, 3], mean[:, 3])
        assert float((result - mean).abs().max()) < 1.0
    for row, model in zip(rows, models, strict=True):  # 27 tokens, 39 inputs: every output can be met
        exact = regmean(models, grams, base=base, options={"ridge": 1e-7})
        torch.testing.assert_close(row @ exact.T, row @ model.T, rtol=1e-3, atol=1e-3)
    # Without a ridge there is no unique solution; the one that is found stays finite and meets the data.
    published = regmean(models, grams, base=base)
    torch.testing.assert_close(rows[0] @ published.T, rows[0] @ models[0].T, rtol=1e-2, atol=1e-2)
    nothing = regmean(models, [torch.zeros(40, 40)] * 3, (2, 1, 1), base=base)
    torch.testing.assert_close(nothing, models[0] * 0.5 + models[1] * 0.25 + models[2] * 0.25)


def test_a_search_uses_what_it_kept_and_gets_what_a_stream_gets() -> None:
    models, grams = layers(9)
    base = models[0] - 0.1
    moments = [None, *(Statistics({"gram/x": gram}) for gram in grams)]
    engine = make_engine({"x": base}, [{"x": model} for model in models], moments=moments)
    into = {"x": torch.empty_like(base)}
    for weight, a in (((1, 1, 1), 0.9), ((0.2, 1, 0.4), 0.5), ((0.2, 1, 0.4), 1.0)):
        merge = make_merge("regmean", 3, {"weight": list(weight), "off_diagonal": a})
        engine.apply(merge, into)
        fresh = make_engine({"x": base}, [{"x": model} for model in models], moments=moments)
        assert torch.equal(into["x"], dict(fresh.stream(merge))["x"])


def test_invalid_statistics_and_coefficients_are_errors() -> None:
    with pytest.raises(MethodError, match="non-negative weights"):
        regmean([W1, W2], [G1, G2], (1, -0.1))
    with pytest.raises(MethodError, match="off_diagonal must lie between 0 and 1"):
        regmean([W1, W2], [G1, G2], off_diagonal=1.5)
    with pytest.raises(MethodError, match=r"'gram' of code has shape \(3, 3\), expected \(2, 2\)"):
        regmean([W1, W2], [G1, torch.eye(3)])
    for damaged in (-G1, G1 * float("nan"), torch.tensor([[0.1, 9.0], [9.0, 0.1]])):
        with pytest.raises(MethodError, match="not positive definite"):
            regmean([W1, W2], [damaged, damaged])
    with pytest.raises(MergeError, match="needs the statistics 'gram' of every input, and 'math' has none"):
        merged("regmean", W1, [W1, W2], {})
