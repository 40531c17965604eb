from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.method import MethodError
from search_spaces.base import CoefficientTable
from tests.contracts.merge_method import (
    MergeMethodContract,
    examples,
    fixed,
    make_engine,
    make_merge,
    merged,
    random_models,
)
from tests.evomerge.merging.vectors import DELTAS, check, merged_delta

ONE = {"weight": [1, 1, 1]}


class TestTies(MergeMethodContract):
    name = "ties"
    smooth = False  # weights decide elections
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [0.4, 0.7, 1.0], "scale": 0.8})
    one_hot = fixed({"density": [1.0, 1.0, 1.0], "scale": 1.0})


@pytest.mark.slow
class TestTiesWholeDeltas(MergeMethodContract):
    name = "ties"
    smooth = False  # weights decide elections
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [1.0, 1.0, 1.0]})
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})
    averages = True
    hull = True


@pytest.mark.slow
class TestTiesRescaled(MergeMethodContract):
    name = "ties"
    smooth = False  # weights decide elections
    options = fixed({"rescale": "mergekit"})
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [0.4, 0.7, 1.0], "scale": 0.8})
    one_hot = fixed({"density": [1.0, 1.0, 1.0], "scale": 1.0})


@pytest.mark.slow
class TestTiesAsPeft(MergeMethodContract):
    name = "ties"
    options = fixed({"compat": "peft", "election": "frequency"})
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [0.4, 0.7, 1.0]})
    one_hot = None  # an input of weight zero is counted


@pytest.mark.slow
class TestTiesOfTheAuthors(MergeMethodContract):
    name = "ties"
    options = fixed({"compat": "official"})
    values = fixed({"weight": [0.3, 0.9, 0.5], "density": [0.4, 0.7, 1.0], "scale": 0.8})
    one_hot = None  # an input of weight zero votes and is counted
    local = False  # one threshold for the whole model


@pytest.mark.slow
class TestTiesOfMergeLM(MergeMethodContract):
    name = "ties"
    options = fixed({"compat": "mergelm"})
    values = fixed({"weight": [1.0, 1.0, 1.0], "density": [0.4, 0.7, 1.0]})
    one_hot = None  # an input of weight zero votes and is counted
    local = False  # one threshold for the whole model


def test_rescaled_trimmed_deltas_have_their_norm_back() -> None:
    values = {"weight": [1, 1], "density": [0.5, 0.5]}
    result = merged_delta("ties", values, 2, options={"rescale": "mergekit"})
    # Of L1 norms 10.6 and 9, trimming leaves 9 and 6.7; the mean is by the plain weights.
    first, second = 10.6 / 9, 9 / 6.7
    check(result, [4 * first, (-3 * first - 3.5 * second) / 2, 2 * first, -1.2 * second, 2 * second, 0])
    nothing = merged_delta("ties", values | {"density": [0, 1]}, 2, options={"rescale": "mergekit"})
    check(nothing, merged_delta("ties", values | {"density": [0, 1]}, 2).tolist())


def reference(
    base: Tensor, inputs: list[Tensor], weight: list[float], density: list[float], normalize: bool, compat: str
) -> Tensor:
    """Whole tensors in float64, with a stable sort: magnitude descending, then index ascending."""
    deltas = np.stack([(model.float() - base.float()).flatten().double().numpy() for model in inputs])
    for delta, share in zip(deltas, density, strict=True):
        count = max(int(share * delta.size), 1 if compat == "mergekit" else 0)
        delta[np.argsort(-np.abs(delta), kind="stable")[count:]] = 0
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


def test_one_element_of_a_small_tensor_stays_but_not_in_peft() -> None:
    check(merged_delta("ties", {"density": [0.1] * 3}), [4, -3.5, -4, 0, 0, 0])
    assert merged_delta("ties", {"density": [0] * 3}).tolist() == [0] * 6
    assert merged_delta("ties", {"density": [0.1] * 3}, options={"compat": "peft"}).tolist() == [0] * 6


def test_a_density_that_is_no_share_is_refused() -> None:
    with pytest.raises(MethodError, match=r"between 0 and 1; it is 1\.5"):
        merged_delta("ties", {"density": [0.5, 1.5, 0.5]})


Model = dict[str, Tensor]


def whole(base: Model, inputs: list[Model], **given: Any) -> Model:
    """The merge of a model of several tensors."""
    engine = make_engine(base, inputs)
    values = given.pop("values")
    return dict(engine.stream(make_merge("ties", len(inputs), values, **given)))


def deltas_merged(rows: Sequence[Sequence[float]], compat: str, share: float, **options: Any) -> Tensor:
    """The merged delta of one tensor."""
    inputs = [torch.tensor(row, dtype=torch.float32) for row in rows]
    settings = {"compat": compat, **options}
    values = {"density": [share] * len(rows)}
    return merged("ties", torch.zeros_like(inputs[0]), inputs, values, options=settings)


@pytest.mark.parametrize("density", [0.5, 0.34])
def test_worked_examples_of_the_authors(density: float) -> None:
    """One more than int(density * n) is kept: with 3 or 4 elements each the election ends the same."""
    values = {"density": [density] * 3}
    official = {"compat": "official"}
    check(merged_delta("ties", values, options=official), [3, -3.25, -4, -1.2, -2.5, 0])
    summed = merged_delta("ties", values, options={**official, "normalize": False})
    check(summed, [6, -6.5, -4, -1.2, -2.5, 0])


def test_weights_count_for_the_authors_as_in_peft() -> None:
    values = fixed({"weight": [1, 0], "density": [1, 1]})
    for compat in ("official", "mergelm"):
        check(merged_delta("ties", values, n_inputs=2, options={"compat": compat}), [4, -1.5, 1, 0, 0.05, 0])


def test_worked_example_of_mergelm() -> None:
    check(merged_delta("ties", {"density": [0.5] * 3}, options={"compat": "mergelm"}), [3, -3.25, -4, -1.2, -2.5, 0])
    for delta in DELTAS:
        assert deltas_merged([delta.tolist()], "mergelm", 0.5).count_nonzero() == 4


def test_all_elements_equal_to_the_threshold_stay_and_the_model_breaks_ties() -> None:
    rows = [[4, -3, 2, 1, 0, -0.5], [-1, -3, 1, -1, 2, 0.5], [2, 1, -4, 0, -2, 0.25]]
    check(deltas_merged(rows, "official", 0.5), [3, -3, -4, -1, -2, 0])
    kept = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 0]]
    for row, mask in zip(rows, kept, strict=True):
        assert deltas_merged([row], "official", 0.5).count_nonzero() == sum(mask)
        check(deltas_merged([row], "official", 0.5), [x * m for x, m in zip(row, mask, strict=True)])
    turned = [[-x for x in row] for row in rows]
    check(deltas_merged(turned, "official", 0.5), [-3, 3, 4, 1, 2, 0])


def test_a_majority_belongs_to_its_density_and_to_the_signs_of_the_weights() -> None:
    rows = [[4, -3, 2, 1, 0, -0.5], [-1, -3, 1, -1, 2, 0.5], [2, 1, -4, 0, -2, 0.25]]
    inputs = [{"x": torch.tensor(row)} for row in rows]
    engine = make_engine({"x": torch.zeros(6)}, inputs)
    found = []
    for sign in (1.0, -1.0, 1.0):
        merge = make_merge("ties", 3, {"density": [0.5] * 3, "weight": [sign] * 3}, options={"compat": "official"})
        into = {"x": torch.zeros(6)}
        engine.apply(merge, into)
        found.append(into["x"].tolist())
    assert found == [[3, -3, -4, -1, -2, 0], [-3, 3, 4, 1, 2, 0], [3, -3, -4, -1, -2, 0]]


def test_a_model_that_is_undecided() -> None:
    rows = [[1, -2, 3, -4], [-1, 2, 1, -1]]
    check(deltas_merged(rows, "official", 1), [-1, -2, 2, -2.5])
    check(deltas_merged(rows, "mergelm", 1), [0, 0, 2, -2.5])
    check(deltas_merged(rows, "mergelm", 1, normalize=False), [0, 0, 4, -5])


def test_one_threshold_for_the_whole_model() -> None:
    base = {"x": torch.zeros(4), "y": torch.zeros(4)}
    inputs = [
        {"x": torch.tensor([4.0, 3, 2, 1]), "y": torch.tensor([0.4, -0.3, 0.2, 0.1])},
        {"x": torch.tensor([1, -2, 3, 0.5]), "y": torch.tensor([-0.5, 0.25, 0.6, -0.7])},
    ]
    result = whole(base, inputs, values={"density": [0.5, 0.5]}, options={"compat": "official"})
    check(result["x"], [2.5, 3, 2.5, 1])
    check(result["y"], [0.4, 0, 0.6, -0.7])


def of_the_whole(rows: NDArray[np.float64], density: list[float], compat: str) -> NDArray[np.float64]:
    """Merged flat deltas (n_inputs, n), by sorting all of them."""
    n = rows.shape[1]
    kept = rows.copy()
    for row, share in zip(kept, density, strict=True):
        rank = n - int(n * share) if compat == "official" else int(round(n * (1 - share), 6))
        if rank:
            row[np.abs(row) < np.sort(np.abs(row))[rank - 1]] = 0
    signs = np.sign(kept.sum(0))
    signs[signs == 0] = np.sign(signs.sum())
    agree = np.where(signs > 0, kept > 0, kept < 0)
    if compat == "mergelm":
        agree &= signs != 0
    return np.asarray((kept * agree).sum(0) / np.maximum(agree.sum(0), 1))


@examples
@given(seed=st.integers(0, 2**31), compat=st.sampled_from(["official", "mergelm"]))
def test_against_the_flattened_model(seed: int, compat: str) -> None:
    random = np.random.default_rng(seed)
    # Few different magnitudes: many elements at the threshold, many votes of zero.
    rows = random.integers(-9, 10, (3, 5000)) / 8
    rows += random.choice([0, 1 / 8], p=[0.8, 0.2], size=rows.shape)
    density = random.uniform(0, 1, 3).round(2).tolist()
    base = {"a": torch.zeros(1000), "b": torch.zeros(40, 50), "c": torch.zeros(2000)}
    flat = torch.from_numpy(rows).float()
    parts = [{"a": row[:1000], "b": row[1000:3000].view(40, 50), "c": row[3000:]} for row in flat]
    result = whole(base, parts, values={"density": density}, options={"compat": compat})
    together = torch.cat([part.view(-1) for part in result.values()])
    expected = of_the_whole(rows, density, compat)
    torch.testing.assert_close(together.double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-7)


def test_a_threshold_for_the_density_of_each_group() -> None:
    """Densities may differ between tensors: each has the model's threshold at its own."""
    base = {"x": torch.zeros(50), "y": torch.zeros(70)}
    inputs = [
        {name: torch.randn(len(t), generator=torch.Generator().manual_seed(i)) for name, t in base.items()}
        for i in range(2)
    ]
    engine = make_engine(base, inputs)
    groups = {"first": ("x",), "rest": ("*",)}
    table = CoefficientTable(groups, {"density": np.array([[0.3, 0.3], [0.6, 0.6]])})
    merge = replace(make_merge("ties", 2, {}, options={"compat": "official"}), table=table)
    result = dict(engine.stream(merge))
    for name, density in (("x", 0.3), ("y", 0.6)):
        alike = whole(base, inputs, values={"density": [density] * 2}, options={"compat": "official"})
        assert torch.equal(result[name], alike[name])


def test_thresholds_of_the_model_are_cached() -> None:
    base, *inputs = random_models(0, 3, torch.float32, (30, 40))
    engine = make_engine({"x": base, "y": base[:5]}, [{"x": m, "y": m[:5]} for m in inputs])
    into = {"x": torch.zeros(30, 40), "y": torch.zeros(5, 40)}
    for density in (0.3, 0.6, 0.3):
        merge = make_merge("ties", 3, {"density": [density] * 3}, options={"compat": "official"})
        engine.apply(merge, into)
        expected = whole(
            {"x": base, "y": base[:5]},
            [{"x": m, "y": m[:5]} for m in inputs],
            values={"density": [density] * 3},
            options={"compat": "official"},
        )
        assert all(torch.equal(into[name], expected[name]) for name in into)
