import numpy as np
import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models
from tests.evomerge.merging.vectors import check, merged_delta

HALF = {"threshold": [0.5] * 3}


class TestConsensusTa(MergeMethodContract):
    name = "consensus_ta"
    values = fixed({"weight": [0.3, -0.2, 0.8], "threshold": [0.3, 0.4, 0.6]})
    one_hot = None  # the masks compare all deltas


@pytest.mark.slow
class TestConsensusTaOfEverything(MergeMethodContract):
    name = "consensus_ta"
    options = fixed({"votes": 0})
    values = fixed({"weight": [0.3, -0.2, 0.8]})


@pytest.mark.slow
class TestReconstruction(MergeMethodContract):
    name = "consensus_ta"
    options = fixed({"task": "code"})
    values = fixed({"threshold": [0.3, 0.4, 0.6]})
    one_hot = None  # as above


def test_worked_examples() -> None:
    check(merged_delta("consensus_ta", HALF), [5, -5.6, -1.2, 0.1, -0.4, 0.25])
    # The counts are [2, 2, 2, 3, 2, 3].
    check(merged_delta("consensus_ta", HALF, options={"votes": 3}), [0, 0, 0, 0.1, 0, 0.25])


@pytest.mark.parametrize(
    ("threshold", "masks"),
    [
        (0.5, [[1, 1, 1, 1, 0, 1], [0, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1]]),
        (1.0, [[1, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]]),
    ],
)
def test_worked_masks(threshold: float, masks: list[list[int]]) -> None:
    total = torch.tensor([5, -5.6, -1.2, 0.1, -0.4, 0.25])
    for name, mask in zip(("math", "code", "chat"), masks, strict=True):
        result = merged_delta("consensus_ta", {"threshold": [threshold] * 3}, options={"task": name})
        check(result, (total * torch.tensor(mask)).tolist())


def test_no_votes_is_task_arithmetic_and_more_than_there_are_models_is_the_base() -> None:
    values = {"weight": [0.5, 0.3, 0.2], "scale": 0.9}
    plain = merged_delta("task_arithmetic", values)
    assert torch.equal(merged_delta("consensus_ta", values, options={"votes": 0}), plain)
    assert not merged_delta("consensus_ta", values, options={"votes": 4}).any()


def test_a_threshold_of_zero_needs_whatever_was_changed() -> None:
    inputs = [torch.tensor([1.0, 0, 2]), torch.tensor([1.0, 3, 0])]
    result = merged("consensus_ta", torch.zeros(3), inputs, {"threshold": 0})
    assert result.tolist() == [2, 0, 0]
    one = merged("consensus_ta", torch.zeros(3), inputs, {"threshold": 0}, options={"votes": 1})
    assert one.tolist() == [2, 3, 2]


@pytest.mark.parametrize("votes", [1, 2, 3])
def test_against_whole_tensors_in_float64(votes: int) -> None:
    base, *inputs = random_models(3, 3, torch.float32, (70, 1003))
    weight, threshold = np.array([0.5, -0.25, 1]), [0.2, 0.4, 0.6]
    deltas = np.stack([(model - base).numpy() for model in inputs])
    total = deltas.sum(0, dtype=np.float64)
    needed = sum(np.abs(d) > t * np.abs(total - d) for d, t in zip(deltas, threshold, strict=True))
    expected = base.double().numpy() + np.tensordot(weight, deltas.astype(np.float64), 1) * (needed >= votes)
    values = {"weight": weight.tolist(), "threshold": threshold}
    result = merged("consensus_ta", base, inputs, values, options={"votes": votes})
    wrong = ~np.isclose(result.double().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert wrong.sum() <= 2, "but what lies on the threshold to the last bit"


def test_a_task_that_is_no_input_is_refused() -> None:
    with pytest.raises(MethodError, match="one of math, code, chat; it is 'cook'"):
        merged_delta("consensus_ta", HALF, options={"task": "cook"})


def test_a_task_keeps_the_bases_tensor_where_it_has_none() -> None:
    base, *inputs = random_models(0, 2, torch.float32)
    engine = make_engine({"x": base, "y": base}, [{"x": inputs[0], "y": inputs[0]}, {"x": inputs[1]}])
    made = dict(engine.stream(make_merge("consensus_ta", 2, {}, options={"task": "code"})))
    assert torch.equal(made["y"], base)
    assert not torch.equal(made["x"], base)
