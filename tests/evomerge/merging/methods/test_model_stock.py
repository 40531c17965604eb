import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

ZERO = torch.zeros(4)
W1, W2, W3 = (torch.tensor(values) for values in ([2.0, 0, 0, 0], [1.0, 1, 0, 0], [0.0, 0, 2, 0]))
MERGEKIT = fixed({"compat": "mergekit", "clamp": False})


class TestModelStock(MergeMethodContract):
    name = "model_stock"
    values = fixed({"scale": 0.9})
    one_hot = None  # no weights
    hull = True
    rotates = True


@pytest.mark.slow
class TestModelStockIdenticalExperts(MergeMethodContract):
    name = "model_stock"
    options = fixed({"compat": "mergekit"})
    values = fixed({})
    one_hot = None  # as above
    averages = True
    hull = True
    rotates = True


@pytest.mark.slow
class TestModelStockFilterWise(MergeMethodContract):
    name = "model_stock"
    options = fixed({"filter_wise": True, "clamp": False})
    values = fixed({})
    one_hot = None  # as above
    averages = True


def related(seed: int, shape: tuple[int, ...], n: int) -> tuple[Tensor, list[Tensor]]:
    """A base, and models that went in a common direction."""
    base, common, *own = random_models(seed, n + 1, torch.float32, shape)
    return base, [model + (common - base) for model in own]


def reference(base: Tensor, inputs: list[Tensor], mean_of: str) -> Tensor:
    deltas = np.stack([(model - base).double().numpy() for model in inputs])
    n = len(deltas)
    pairs = [(deltas[i], deltas[j]) for i in range(n) for j in range(i + 1, n)]
    cosines = np.array([(a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1) for a, b in pairs])
    cosine = cosines.mean(0) if mean_of == "cosines" else np.cos(np.arccos(cosines).mean(0))
    ratio = n * cosine / (1 + (n - 1) * cosine)
    return base.double() + torch.from_numpy(ratio[..., None] * deltas.mean(0))


@pytest.mark.parametrize("compat", ["paper", "mergekit"])
def test_against_whole_tensors_in_float64(compat: str) -> None:
    base, inputs = related(3, (7, 300), 3)
    mean_of = "cosines" if compat == "mergekit" else "angles"
    options = {"compat": compat, "filter_wise": True}
    result = merged("model_stock", base, inputs, {}, options=options)
    torch.testing.assert_close(result.double(), reference(base, inputs, mean_of), rtol=1e-6, atol=1e-6)
    flat = merged("model_stock", base, inputs, {}, options={"compat": compat})
    expected = reference(base.view(-1), [model.view(-1) for model in inputs], mean_of)
    torch.testing.assert_close(flat.double(), expected.view(7, 300), rtol=1e-6, atol=1e-6)


def test_worked_examples() -> None:
    check(merged("model_stock", ZERO, [W1, W2], {}), [1.242641, 0.414214, 0, 0])
    check(merged("model_stock", ZERO, [W1, W2, W3], {}, options=MERGEKIT), [0.480566, 0.160189, 0.320377, 0])
    check(merged("model_stock", ZERO, [W1, W2, W3], {}), [0.511622, 0.511622 / 3, 0.511622 * 2 / 3, 0])


def test_worked_examples_by_filter_and_by_tensor() -> None:
    inputs = [torch.tensor([[2.0, 0], [0, 2]]), torch.tensor([[1.0, 1], [0, 1]])]
    by_filter = merged("model_stock", torch.zeros(2, 2), inputs, {}, options={"filter_wise": True})
    torch.testing.assert_close(by_filter, torch.tensor([[1.242641, 0.414214], [0, 1.5]]), rtol=0, atol=2e-6)
    by_tensor = merged("model_stock", torch.zeros(2, 2), inputs, {})
    torch.testing.assert_close(by_tensor, torch.tensor([[1.348469, 0.44949], [0, 1.348469]]), rtol=0, atol=2e-6)


def test_opposite_deltas_give_the_base() -> None:
    for options in (fixed({}), MERGEKIT, fixed({"filter_wise": True}), fixed({"filter_wise": True, "clamp": False})):
        assert torch.equal(merged("model_stock", W3, [W3 + W1, W3 - W1], {}, options=options), W3)


def test_only_without_the_clamp_may_it_leave_the_models_behind() -> None:
    zero, inputs = torch.zeros(2), [torch.tensor([2.0, 0]), torch.tensor([-1.0, 1])]
    assert merged("model_stock", zero, inputs, {}).tolist() == [0, 0]
    check(merged("model_stock", zero, inputs, {}, options={"clamp": False}), [-2.414213, -2.414213])


def test_right_angles_and_deltas_of_zero_give_the_base_bit_for_bit() -> None:
    base = torch.tensor([0.1, 0.2, 0.3, 0.4])
    for compat in ("paper", "mergekit"):
        options = {"compat": compat}
        inputs = [base + 0.25 * torch.eye(4)[i] for i in range(2)]
        inputs = [torch.where(torch.eye(4)[i] > 0, model, base) for i, model in enumerate(inputs)]
        assert torch.equal(merged("model_stock", base, inputs, {}, options=options), base)
        assert torch.equal(merged("model_stock", base, [base, base + 1], {}, options=options), base)


def test_positive_scales_of_deltas_do_not_change_the_ratio() -> None:
    once = merged("model_stock", ZERO, [W1, W2], {})
    twice = merged("model_stock", ZERO, [W1, 3 * W2], {})
    ratio = 2 * math.cos(math.pi / 4) / (1 + math.cos(math.pi / 4))
    torch.testing.assert_close(once, ratio * (W1 + W2) / 2)
    torch.testing.assert_close(twice, ratio * (W1 + 3 * W2) / 2)


def test_short_deltas_look_unrelated_to_mergekit() -> None:
    inputs = [W1 * 1e-4, W2 * 1e-4]
    check(merged("model_stock", ZERO, inputs, {}) * 1e4, [1.242641, 0.414214, 0, 0])
    cosine = 2e-8 / 1e-6
    ratio = 2 * cosine / (1 + cosine)
    check(merged("model_stock", ZERO, inputs, {}, options=MERGEKIT) * 1e4, [1.5 * ratio, 0.5 * ratio, 0, 0])
