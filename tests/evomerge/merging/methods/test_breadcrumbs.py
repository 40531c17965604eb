import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import DELTAS, check, merged_delta

MERGEKIT = fixed({"compat": "mergekit"})
VALUES = fixed({"weight": [0.3, -0.2, 0.8], "density": [0.3, 0.5, 0.9], "gamma": [0.02, 0.05, 0.3], "scale": 1.1})
WHOLE = fixed({"density": [1.0] * 3, "gamma": [0.0] * 3})
ROWS = torch.tensor([[4, -3, 2, 1, 0.1, -0.5], [-10, -35, 8, -12, 20, 5]])


class TestBreadcrumbs(MergeMethodContract):
    name = "breadcrumbs"
    values = VALUES
    one_hot = WHOLE


@pytest.mark.slow
class TestBreadcrumbsAsMergekit(MergeMethodContract):
    name = "breadcrumbs"
    options = fixed({**MERGEKIT, "normalize": True, "rescale": "mergekit"})
    values = fixed({**VALUES, "weight": [0.3, 0.2, 0.8]})
    one_hot = WHOLE
    linear = False  # in its weights, which are normalized


def middle(delta: np.ndarray, density: float, gamma: float, compat: str) -> np.ndarray:
    """The kept elements of a delta, by a stable sort of every row or of all of it."""
    rows = delta.reshape(-1) if compat == "mergekit" or delta.ndim < 2 else delta.reshape(len(delta), -1)
    rows = np.atleast_2d(rows)
    kept = np.zeros_like(rows)
    for row, values in enumerate(rows):
        n, wanted = values.size, int(values.size * density)
        first = min(int(n * gamma), n - wanted) if compat == "mergekit" else int(n * gamma)
        order = np.argsort(-np.abs(values), kind="stable")[first : first + wanted]
        kept[row, order] = values[order]
    return kept.reshape(delta.shape)


@pytest.mark.parametrize("compat", ["official", "mergekit"])
@pytest.mark.parametrize("shape", [(70, 103), (400,), (6, 5, 7)])
def test_against_whole_tensors_in_float64(compat: str, shape: tuple[int, ...]) -> None:
    base, *inputs = random_models(4, 3, torch.bfloat16, shape)
    result = merged("breadcrumbs", base, inputs, VALUES, options={"compat": compat}, dtype=torch.float32)
    expected = base.double().numpy()
    for model, weight, density, gamma in zip(
        inputs,
        *(VALUES[name] for name in ("weight", "density", "gamma")),
        strict=True,  # type: ignore[arg-type]
    ):
        delta = (model.double() - base.double()).numpy()
        expected = expected + 1.1 * weight * middle(delta, density, gamma, compat)
    torch.testing.assert_close(result.double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def one(delta: Tensor, density: float, gamma: float, **options: str) -> Tensor:
    values = {"density": [density], "gamma": [gamma]}
    return merged("breadcrumbs", torch.zeros_like(delta), [delta], values, options=options)


def test_worked_examples_of_mergekit() -> None:
    check(one(DELTAS[0], 0.5, 0.2, compat="mergekit"), [0, -3, 2, 1, 0, 0])
    values = fixed({"density": [0.5] * 3, "gamma": [0.2] * 3})
    check(merged_delta("breadcrumbs", values, options=MERGEKIT), [1, -2.1, 2, -0.2, -0.5, 0])
    assert one(ROWS, 0.5, 0.2, compat="mergekit").tolist() == [[4, -3, 0, 0, 0, 0], [-10, 0, 8, -12, 0, 5]]


def test_worked_examples_by_row() -> None:
    assert one(ROWS, 0.5, 0.2).tolist() == [[0, -3, 2, 1, 0, 0], [-10, 0, 0, -12, 20, 0]]
    pair = torch.stack(DELTAS[:2])
    for compat in ("official", "mergekit"):
        found = one(pair, 0.5, 0.2, compat=compat)
        assert torch.equal(found, torch.tensor([[0, -3, 2, 1, 0, 0], [-1, 0, 0, -1.2, 2, 0]]))
    assert torch.equal(one(pair, 0.5, 0.1), torch.tensor([[4, -3, 2, 0, 0, 0], [0, -3.5, 0, -1.2, 2, 0]]))


def test_small_tensors_keep_their_share_although_no_outlier_goes() -> None:
    check(one(DELTAS[0], 0.5, 0.1, compat="mergekit"), [4, -3, 2, 0, 0, 0])


def test_outliers_give_way_only_to_mergekits_density() -> None:
    check(one(DELTAS[0], 0.8, 0.5, compat="mergekit"), [0, 0, 2, 1, 0.1, -0.5])
    assert torch.equal(one(DELTAS[0], 1, 0.5, compat="mergekit"), DELTAS[0])
    check(one(DELTAS[0], 0.8, 0.5), [0, 0, 0, 1, 0.1, -0.5])
    check(one(DELTAS[0], 1, 0.5), [0, 0, 0, 1, 0.1, -0.5])


def test_full_density_equals_task_arithmetic() -> None:
    values = fixed({"weight": [0.5, 0.3, 0.2]})
    for compat in ("official", "mergekit"):
        result = merged_delta("breadcrumbs", {**values, **WHOLE}, options={"compat": compat})
        assert torch.equal(result, merged_delta("task_arithmetic", values))


def test_the_norm_is_restored() -> None:
    base, *inputs = random_models(4, 3, torch.float32, (20, 103))
    for compat in ("official", "mergekit"):
        for model in inputs:
            kept = one(model - base, 0.4, 0.1, compat=compat)
            restored = one(model - base, 0.4, 0.1, compat=compat, rescale="mergekit")
            factor = float((model - base).abs().sum() / kept.abs().sum())
            torch.testing.assert_close(restored, kept * factor)


def test_densities_outside_0_to_1_are_errors() -> None:
    with pytest.raises(MethodError, match=r"gamma of 'math' must lie between 0 and 1; it is 1.5"):
        one(DELTAS[0], 0.5, 1.5)
    with pytest.raises(MethodError, match=r"density of 'math' must lie between 0 and 1; it is -0.5"):
        one(DELTAS[0], -0.5, 0.1)
