import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, examples, fixed, merged, random_models
from tests.evomerge.merging.vectors import check, merged_delta

ONE = {"weight": [1, 1, 1]}


class TestTies(MergeMethodContract):
    name = "ties"
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [0.4, 0.7, 1.0], "scale": 0.8})
    one_hot = fixed({"density": [1.0, 1.0, 1.0], "scale": 1.0})


class TestTiesWholeDeltas(MergeMethodContract):
    name = "ties"
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [1.0, 1.0, 1.0]})
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})
    averages = True
    hull = True


class TestTiesAsPeft(MergeMethodContract):
    name = "ties"
    options = fixed({"compat": "peft", "election": "frequency"})
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [0.4, 0.7, 1.0]})
    one_hot = None


def reference(
    base: Tensor, inputs: list[Tensor], weight: list[float], density: list[float], normalize: bool, compat: str
) -> Tensor:
    """Whole tensors in float64, with a stable sort: magnitude descending, then index ascending."""
    deltas = np.stack([(model.float() - base.float()).flatten().double().numpy() for model in inputs])
    for delta, share in zip(deltas, density, strict=True):
        delta[np.argsort(-np.abs(delta), kind="stable")[int(share * delta.size) :]] = 0
    weights = np.array(weight)[:, None]
    deltas, weights = deltas * np.where(weights < 0, -1.0, 1.0), np.abs(weights)
    votes = deltas if compat == "peft" else weights * deltas
    elected = np.where(votes.sum(0) >= 0, 1.0, -1.0)
    agrees = np.sign(votes) == elected
    merged_delta = (weights * deltas * agrees).sum(0)
    if normalize:
        divisor = (agrees * (1.0 if compat == "peft" else weights)).sum(0)
        merged_delta /= np.where(divisor == 0, 1, divisor)
    return base.double() + torch.from_numpy(merged_delta).view(base.shape)


@examples
@given(seed=st.integers(0, 2**31), normalize=st.booleans(), compat=st.sampled_from(["mergekit", "peft"]))
def test_against_whole_tensors_in_float64(seed: int, normalize: bool, compat: str) -> None:
    random = np.random.default_rng(seed)
    dtype = torch.bfloat16 if seed % 2 else torch.float32
    base, *inputs = random_models(seed, 3, dtype, (7, 5501))
    # Odd multiples of a power of two: sums of weighted deltas are exact where deltas are dyadic.
    weight = (random.integers(-8, 9, 3) / 8).tolist()
    weight[0] = 0.625
    density = random.uniform(0.01, 1, 3).tolist()
    result = merged(
        "ties",
        base,
        inputs,
        {"weight": weight, "density": density},
        options={"normalize": normalize, "compat": compat},
        dtype=torch.float32,
    )
    expected = reference(base, inputs, weight, density, normalize, compat)
    # A vote within rounding of zero may go the other way.
    wrong = ~torch.isclose(result.double(), expected, rtol=1e-6, atol=1e-6)
    assert int(wrong.sum()) <= 1


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (0.5, [3, -3.25, -4, -1.2, -2.5, 0]),
        (0.34, [4, -3.25, -4, 0, -2.5, 0]),
        (1.0, [3, -3.25, -4, 0.65, -2.5, 0.375]),
    ],
)
def test_worked_examples(density: float, expected: list[float]) -> None:
    check(merged_delta("ties", {**ONE, "density": [density] * 3}), expected)


def test_worked_examples_with_weights() -> None:
    values = fixed({"weight": [1, 2, 1], "density": [0.5] * 3})
    check(merged_delta("ties", values), [3, -10 / 3, -4, -1.2, 2, 0])
    check(merged_delta("ties", values, options={"normalize": False}), [6, -10, -4, -2.4, 4, 0])


def test_worked_examples_of_peft() -> None:
    half = {"density": [0.5] * 3}
    peft = {"compat": "peft"}
    check(merged_delta("ties", {**ONE, **half}, options=peft), [3, -3.25, -4, -1.2, -2.5, 0])
    check(merged_delta("ties", {"weight": [1, 2, 1], **half}, options=peft), [3, -5, -4, -2.4, -2.5, 0])
    frequency = {**peft, "election": "frequency"}
    check(merged_delta("ties", {**ONE, **half}, options=frequency), [3, -3.25, 2, -1.2, 2, 0])
    summed = {**peft, "normalize": False}
    check(merged_delta("ties", {**ONE, **half}, options=summed), [6, -6.5, -4, -1.2, -2.5, 0])


def test_a_weight_of_zero_votes_only_in_peft() -> None:
    values = fixed({"weight": [1, 0], "density": [1, 1]})
    check(merged_delta("ties", values, n_inputs=2), [4, -3, 2, 1, 0.1, -0.5])
    check(merged_delta("ties", values, n_inputs=2, options={"compat": "peft"}), [4, -1.5, 1, 0, 0.05, 0])


def test_per_tensor_example() -> None:
    zero = torch.zeros(4)
    values = fixed({"density": [0.5, 0.5]})
    x = [torch.tensor([4.0, 3, 2, 1]), torch.tensor([1, -2, 3, 0.5])]
    y = [torch.tensor([0.4, -0.3, 0.2, 0.1]), torch.tensor([-0.5, 0.25, 0.6, -0.7])]
    check(merged("ties", zero, x, values), [4, 3, 3, 0])
    check(merged("ties", zero, y, values), [0.4, -0.3, 0.6, -0.7])


def test_a_sum_of_zero_elects_plus() -> None:
    inputs = [torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0])]
    check(merged("ties", torch.zeros(2), inputs, {"density": [1, 1]}), [1, 2])


def test_a_negative_weight_turns_its_delta_around() -> None:
    turned = [torch.ones(6) + sign * delta for sign, delta in zip((1, -1, 1), _deltas(), strict=True)]
    values = fixed({"density": [0.5] * 3})
    result = merged_delta("ties", {"weight": [1, -2, 1], **values})
    expected = merged("ties", torch.ones(6), turned, {"weight": [1, 2, 1], **values}) - 1
    assert torch.equal(result, expected)


def _deltas() -> list[Tensor]:
    return [merged_delta("task_arithmetic", {"weight": [float(i == j) for j in range(3)]}) for i in range(3)]


@examples
@given(seed=st.integers(0, 2**31), share=st.floats(0.01, 0.99))
def test_exactly_k_elements_are_kept_the_first_of_equals(seed: int, share: float) -> None:
    random = torch.Generator().manual_seed(seed)
    size = tiles.TILE * 2 + 77
    delta = torch.randint(1, 5, (size,), generator=random) * (1 - 2 * torch.randint(0, 2, (size,), generator=random))
    delta = delta.float()
    result = merged("ties", torch.zeros(size), [delta], {"density": [share]})
    kept = torch.zeros(size)
    order = np.argsort(-delta.abs().numpy(), kind="stable")[: int(share * size)]
    kept[order] = delta[order]
    assert torch.equal(result, kept)


def test_small_tensors_may_keep_nothing() -> None:
    assert merged_delta("ties", {"density": [0.1] * 3}).tolist() == [0] * 6


def test_a_density_that_is_no_share_is_refused() -> None:
    with pytest.raises(MethodError, match=r"between 0 and 1; it is 1\.5"):
        merged_delta("ties", {"density": [0.5, 1.5, 0.5]})
