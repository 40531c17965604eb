import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

#: One-hot models: the merge is the weights themselves.
UNIT = [torch.eye(3)[index] for index in range(3)]
LOSSES = [0.5, 0.4, 0.8]


class TestMetricsWeighted(MergeMethodContract):
    name = "metrics_weighted"
    values = fixed({"metric": LOSSES, "penalty": 2.0})
    one_hot = None  # weights follow from the metric
    averages = True
    hull = True


@pytest.mark.slow
class TestMetricsWeightedByRank(MergeMethodContract):
    name = "metrics_weighted"
    options = fixed({"by": "rank"})
    values = fixed({"metric": LOSSES, "penalty": 0.5})
    one_hot = None  # as above
    averages = True
    hull = True


def weights(metric: list[float], penalty: float, by: str = "loss") -> torch.Tensor:
    return merged("metrics_weighted", torch.zeros(3), UNIT, {"metric": metric, "penalty": penalty}, options={"by": by})


@pytest.mark.parametrize(
    ("by", "metric", "penalty", "expected"),
    [
        ("loss", LOSSES, 1, [0.347826, 0.434783, 0.217391]),
        ("loss", LOSSES, 2, [0.338624, 0.529101, 0.132275]),
        ("loss", LOSSES, 4, [0.278242, 0.679302, 0.042456]),
        ("step", [100, 200, 300], 1, [1 / 6, 1 / 3, 1 / 2]),
        ("step", [100, 200, 300], 2, [0.071429, 0.285714, 0.642857]),
        ("exponential", [0.5, 0.4, 0.8], 10, [0.265388, 0.721399, 0.013213]),
        ("exponential", [-1000, 0, 1000], 10, [1, 0, 0]),
        ("rank", [0.5, 0.4, 0.8], 1, [3 / 11, 6 / 11, 2 / 11]),
        ("rank", [0.4, 0.8, 0.4], 1, [0.4, 0.2, 0.4]),
        ("step", [1e-300, 1e300, 1], 10, [0, 1, 0]),
    ],
)
def test_worked_examples(by: str, metric: list[float], penalty: float, expected: list[float]) -> None:
    check(weights(metric, penalty, by), expected)


@pytest.mark.parametrize("by", ["loss", "exponential", "step", "rank"])
def test_no_penalty_and_equal_metrics_are_the_plain_average(by: str) -> None:
    check(weights([3, 1, 2], 0, by), [1 / 3] * 3)
    check(weights([2, 2, 2], 5, by), [1 / 3] * 3)


def test_a_large_penalty_takes_the_best_checkpoint_bit_for_bit() -> None:
    base, *inputs = random_models(0, 3, torch.bfloat16)
    assert torch.equal(merged("metrics_weighted", base, inputs, {"metric": LOSSES, "penalty": 1e5}), inputs[1])


def test_a_loss_of_zero_is_refused() -> None:
    with pytest.raises(MethodError, match=r"x: a loss needs to be positive .* they are \[0.5, 0.0, 1.0\]"):
        weights([0.5, 0, 1], 1)
