import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

A, B = torch.tensor([1.0, 2, 3, 4]), torch.tensor([4.0, 1, 2, 1])


class TestVarianceCorrected(MergeMethodContract):
    name = "variance_corrected"
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    translates = False  # the variance is that of the models themselves
    rotates = False  # a rotation changes the mean of the elements


@pytest.mark.slow
class TestVarianceCorrectedTowardsTheBase(MergeMethodContract):
    name = "variance_corrected"
    values = fixed({"weight": [0.2, 0.5, 0.4], "base_share": 0.25})
    one_hot = None  # stretched to the base's variance
    translates = False  # as above


@pytest.mark.slow
class TestVarianceCorrectedWithEpsilon(MergeMethodContract):
    name = "variance_corrected"
    options = fixed({"epsilon": 1e-4})
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    scales = False  # epsilon is in units of the weights
    translates = False  # as above


def test_worked_examples() -> None:
    zero = torch.zeros(4)
    check(merged("variance_corrected", zero, [A, B], {}), [2.927003, 0.21899, 2.927003, 2.927003])
    epsilon = {"epsilon": 1e-4}
    check(merged("variance_corrected", zero, [A, B], {}, options=epsilon), [2.926886, 0.219341, 2.926886, 2.926886])


@pytest.mark.parametrize("base_share", [0.0, 0.3, 1.0])
def test_mean_stays_and_variance_is_what_was_aimed_at(base_share: float) -> None:
    base, *inputs = random_models(0, 3, torch.float32, (40, 60))
    inputs = [torch.randn(40, 60, generator=torch.Generator().manual_seed(i)) * (i + 1) + i for i in range(3)]
    weight = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    values = {"weight": weight.tolist(), "base_share": base_share}
    result = merged("variance_corrected", base, inputs, values).double()
    average = sum(w * model.double() for w, model in zip(weight, inputs, strict=True))
    assert isinstance(average, torch.Tensor)
    own = float(sum(w * model.double().var() for w, model in zip(weight, inputs, strict=True)))
    wanted = base_share * float(base.double().var()) + (1 - base_share) * own
    assert float(result.mean()) == pytest.approx(float(average.mean()), rel=1e-6)
    assert float(result.var()) == pytest.approx(wanted, rel=1e-6)
    expected = (average - average.mean()) * (wanted / average.var()) ** 0.5 + average.mean()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_zero_variance_gives_the_plain_average() -> None:
    zero = torch.zeros(3)
    check(merged("variance_corrected", zero, [torch.ones(3) * 0.1, torch.ones(3) * 3], {}), [1.55] * 3)
    check(merged("variance_corrected", zero, [A[:3], -A[:3]], {}), [0] * 3)
    check(merged("variance_corrected", zero[:1], [A[:1], B[:1]], {}), [2.5])


def test_weights_that_cancel_and_a_negative_epsilon_are_refused() -> None:
    with pytest.raises(MethodError, match=r"x: the weights \[1.0, -1.0\] add up to 0"):
        merged("variance_corrected", A, [A, B], {"weight": [1, -1]})
    with pytest.raises(MethodError, match=r"epsilon must not be negative; it is -1"):
        merged("variance_corrected", A, [A, B], {}, options={"epsilon": -1.0})
