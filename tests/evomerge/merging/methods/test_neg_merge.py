from itertools import pairwise

import numpy as np
import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

TWO = (torch.tensor([1, -1, 2, 0, 0.5, -3]), torch.tensor([3, -2, -1, 1, 0.5, -1]))


class TestNegMerge(MergeMethodContract):
    name = "neg_merge"
    values = fixed({"weight": [0.3, 0.9, 0.5], "scale": 0.7})
    one_hot = None  # it moves away from its inputs


def test_worked_example() -> None:
    check(merged("neg_merge", torch.zeros(6), TWO, {"scale": -1}), [2, -1.5, 0, 0, 0.5, -2])
    moved = [1 + delta for delta in TWO]
    check(merged("neg_merge", torch.ones(6), moved, {"scale": 0.5}), [0, 1.75, 1, 1, 0.75, 2])


def test_one_model_is_plain_negation() -> None:
    base, other = random_models(0, 1, torch.float32)
    plain = merged("task_arithmetic", base, [other], {"weight": -0.4})
    torch.testing.assert_close(merged("neg_merge", base, [other], {"scale": 0.4}), plain)


def test_a_weight_of_zero_has_no_say() -> None:
    check(merged("neg_merge", torch.zeros(6), TWO, {"scale": -1, "weight": [1, 0]}), [1, -1, 2, 0, 0.5, -3])
    assert merged("neg_merge", torch.ones(6), TWO, {"weight": [0, 0]}).tolist() == [1] * 6


def test_a_model_more_shrinks_the_support_only() -> None:
    base, *inputs = random_models(2, 4, torch.bfloat16, (30, 1001))
    supports = [merged("neg_merge", base, inputs[:n], {}, dtype=torch.float32) != base.float() for n in (2, 3, 4)]
    for more, fewer in pairwise(supports):
        assert bool((more | ~fewer).all())
        assert int(more.sum()) > int(fewer.sum())


def test_against_whole_tensors_in_float64() -> None:
    base, *inputs = random_models(3, 3, torch.bfloat16, (70, 1003))
    deltas = np.stack([model.double().numpy() - base.double().numpy() for model in inputs])
    agreed = np.abs(np.sign(deltas).sum(0)) == 3
    expected = base.double().numpy() - 0.5 * agreed * (deltas[0] + 3 * deltas[1] + 4 * deltas[2]) / 8
    result = merged("neg_merge", base, inputs, {"weight": [0.25, 0.75, 1]}, dtype=torch.float32)
    np.testing.assert_allclose(result.double().numpy(), expected, rtol=0, atol=1e-6)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(MethodError, match=r"must not be negative here; they are \[1.0, -1.0\]"):
        merged("neg_merge", torch.zeros(6), TWO, {"weight": [1, -1]})
