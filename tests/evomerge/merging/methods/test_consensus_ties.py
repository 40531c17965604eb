import numpy as np
import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, random_models
from tests.evomerge.merging.vectors import check, merged_delta


class TestConsensusTies(MergeMethodContract):
    name = "consensus_ties"
    smooth = False  # weights decide elections
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [0.4, 0.7, 1.0], "threshold": [0.3, 0.4, 0.6], "scale": 0.8})
    one_hot = None  # the masks compare all deltas
    local = False  # the largest of the whole model


@pytest.mark.slow
class TestTies(MergeMethodContract):
    name = "consensus_ties"
    smooth = False  # weights decide elections
    options = fixed({"votes": 0})
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [1.0, 1.0, 1.0]})
    one_hot = None  # the base is added back, so the last bit may differ
    averages = True
    hull = True
    local = False  # as above


def test_no_votes_are_ties_over_the_whole_model() -> None:
    # Of 6 elements int(0.34 * 6) + 1 are kept.
    half = {"density": [0.34] * 3}
    check(merged_delta("consensus_ties", half, options={"votes": 0}), [3, -3.25, -4, -1.2, -2.5, 0])
    weighted = {"weight": [1, 2, 1], "density": [0.34] * 3, "scale": 0.5}
    expected = merged_delta("ties", {**weighted, "density": [0.5] * 3})
    assert torch.equal(merged_delta("consensus_ties", weighted, options={"votes": 0}), expected)


def test_masks_compare_whole_deltas_with_the_merged_one() -> None:
    # Masks at 0.5 against [3, -3.25, -4, -1.2, -2.5, 0]: |t| > |merged - t| / 2.
    values = {"density": [0.34] * 3, "threshold": [0.5] * 3}
    check(merged_delta("consensus_ties", values, options={"votes": 2}), [3, -3.25, 0, 0, 0, 0])
    check(merged_delta("consensus_ties", values, options={"task": "chat"}), [3, 0, -4, 0, -2.5, 0])


def test_against_whole_models_in_float64() -> None:
    models = [{"x": t, "y": t[:4] * 3} for t in random_models(3, 3, torch.bfloat16, (40, 1300))]
    values = {"density": [0.1, 0.3, 0.5], "threshold": [0.3, 0.4, 0.6]}
    result = dict(
        make_engine(models[0], models[1:], dtype=torch.float32).stream(make_merge("consensus_ties", 3, values))
    )
    flat = [np.concatenate([tensor.double().numpy().ravel() for tensor in model.values()]) for model in models]
    deltas = np.stack([model - flat[0] for model in flat[1:]])
    trimmed = np.zeros_like(deltas)
    for row, delta, density in zip(trimmed, deltas, values["density"], strict=True):
        order = np.argsort(-np.abs(delta), kind="stable")[: int(density * delta.size) + 1]
        row[order] = delta[order]
    sign = np.where(trimmed.sum(0) >= 0, 1, -1)
    agrees = trimmed * sign > 0
    merged = (trimmed * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    needed = sum(np.abs(d) > t * np.abs(merged - d) for d, t in zip(deltas, values["threshold"], strict=True))
    expected = flat[0] + merged * (needed >= 2)
    got = np.concatenate([tensor.double().numpy().ravel() for tensor in result.values()])
    assert (~np.isclose(got, expected, rtol=1e-5, atol=1e-6)).sum() <= 2, "but what lies on a threshold"


def test_a_task_that_is_no_input_is_refused() -> None:
    with pytest.raises(MethodError, match="one of math, code, chat; it is 'cook'"):
        merged_delta("consensus_ties", {}, options={"task": "cook"})
