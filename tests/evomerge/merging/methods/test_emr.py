import pytest
import torch
from torch import Tensor

from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models
from tests.evomerge.merging.vectors import BASE, DELTAS, check, merged_delta

UNIFIED = torch.tensor([4, -3.5, -4, 1, -2.5, 0.5])
MASKS = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1], [1, 0, 1, 1, 1, 1]])
RESCALERS = (1.247059, 2.25, 0.829167)


class TestEmr(MergeMethodContract):
    name = "emr"
    values = fixed({"weight": [0.3, 0.9, 0.5], "scale": 0.8})
    one_hot = None  # a task's model is not quite that task's
    averages = False  # but at scale 1, below
    local = False  # rescalers are of the whole model
    linear = False  # in its weights, which are normalized


@pytest.mark.slow
class TestEmrSummedUp(MergeMethodContract):
    name = "emr"
    options = fixed({"normalize": False, "rescale": "official"})
    values = fixed({"weight": [0.3, 0.9, 0.5]})
    one_hot = None  # as above
    local = False  # as above


@pytest.mark.slow
class TestUnified(MergeMethodContract):
    name = "emr"
    options = fixed({"masks": False, "rescale": "none"})
    values = fixed({"scale": 1.0})
    one_hot = None  # it is of all tasks
    averages = True
    hull = True
    linear = False  # as above


def one_hot(index: int) -> dict[str, list[float]]:
    return {"weight": [float(index == other) for other in range(3)]}


def test_worked_unified_delta() -> None:
    check(merged_delta("emr", {}, options={"masks": False, "rescale": "none"}), UNIFIED.tolist())


@pytest.mark.parametrize("rescale", ["paper", "official", "none"])
def test_worked_models_of_the_tasks(rescale: str) -> None:
    for index, (mask, rescaler) in enumerate(zip(MASKS, RESCALERS, strict=True)):
        factor = 1 if rescale == "none" else rescaler
        result = merged_delta("emr", one_hot(index), options={"rescale": rescale})
        torch.testing.assert_close(result, factor * mask * UNIFIED, rtol=1e-6, atol=2e-6)


def in_two_tensors(values: dict[str, object], rescale: str) -> Tensor:
    models = [{"x": model[:4], "y": model[4:]} for model in (BASE, *(BASE + delta for delta in DELTAS))]
    made = dict(make_engine(models[0], models[1:]).stream(make_merge("emr", 3, values, options={"rescale": rescale})))
    return torch.cat([made["x"], made["y"]]) - BASE


def test_rescalers_of_several_tensors() -> None:
    for index, official in enumerate((1.317647, 2.555556, 0.846667)):
        expected = MASKS[index] * UNIFIED
        torch.testing.assert_close(
            in_two_tensors(one_hot(index), "official"), official * expected, rtol=1e-6, atol=2e-6
        )
        paper = RESCALERS[index] * expected
        torch.testing.assert_close(in_two_tensors(one_hot(index), "paper"), paper, rtol=1e-6, atol=2e-6)


def test_is_the_average_of_the_tasks_models() -> None:
    values = {"weight": [1, 2, 1], "scale": 0.5}
    expected = sum(w * merged_delta("emr", one_hot(i)) for i, w in enumerate((0.125, 0.25, 0.125)))
    torch.testing.assert_close(merged_delta("emr", values), expected)
    unmasked = merged_delta("emr", values, options={"masks": False})
    factor = (RESCALERS[0] + 2 * RESCALERS[1] + RESCALERS[2]) / 8
    torch.testing.assert_close(unmasked, factor * UNIFIED, rtol=1e-6, atol=2e-6)


def test_experts_that_are_all_the_same_come_back() -> None:
    base, expert = random_models(0, 1, torch.bfloat16)
    result = merged("emr", base, [expert] * 3, {}, dtype=torch.float32)
    torch.testing.assert_close(result, expert.float(), rtol=1e-6, atol=1e-6)


def test_a_sum_of_zero_is_negative_and_a_delta_that_agrees_nowhere_is_left_out() -> None:
    inputs = [torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0])]
    assert merged("emr", torch.zeros(2), inputs, {}, options={"masks": False, "rescale": "none"}).tolist() == [-1, -2]
    inputs = [torch.tensor([1.0]), torch.tensor([-2.0])]
    # The first task has no unified delta: its model is the base.
    assert merged("emr", torch.zeros(1), inputs, {"weight": [1, 0]}).tolist() == [0]
    assert merged("emr", torch.zeros(1), inputs, {"weight": [0, 0]}).tolist() == [0]


def test_an_input_without_a_tensor_takes_no_part_in_it() -> None:
    base, *inputs = random_models(0, 2, torch.float32)
    engine = make_engine({"x": base, "y": base}, [{"x": inputs[0], "y": inputs[0]}, {"x": inputs[1]}])
    made = dict(engine.stream(make_merge("emr", 2, {}, options={"rescale": "none"})))
    torch.testing.assert_close(made["y"], inputs[0])
