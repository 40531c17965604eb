import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, examples, fixed, merged, random_models
from tests.evomerge.merging.vectors import DELTAS, check, merged_delta

MERGEKIT = fixed({"compat": "mergekit"})


class TestSce(MergeMethodContract):
    name = "sce"
    values = fixed({"select_topk": 0.3, "scale": 0.8})
    one_hot = None  # an input's own weight is that of its delta


@pytest.mark.slow
class TestSceWithWeights(MergeMethodContract):
    name = "sce"
    options = fixed({"compat": "official"})
    values = fixed({"select_topk": 0.3, "weight": [0.3, 0.9, 0.5]})
    one_hot = None  # an input of weight zero still votes
    averages = True
    hull = True


@pytest.mark.slow
class TestSceAsMergekit(MergeMethodContract):
    name = "sce"
    options = MERGEKIT
    values = fixed({"select_topk": 0.3})
    one_hot = None  # as above
    scales = False  # small deltas are weighted alike


def reference(base: Tensor, inputs: list[Tensor], topk: float, weight: list[float], compat: str) -> Tensor:
    deltas = np.stack([(model - base).numpy().astype(np.float64).reshape(-1) for model in inputs])
    variance = deltas.var(0)
    selected = np.zeros(len(variance))
    selected[np.argsort(-variance, kind="stable")[: int(np.count_nonzero(variance) * topk)]] = 1
    if topk == 1:
        selected[:] = 1
    squares = np.square(deltas * selected).mean(1)
    small = squares.sum() < (1e-6 if compat == "mergekit" else 1e-300)
    shares = (np.ones(len(deltas)) if small else squares / squares.sum()) * weight
    merging = deltas * selected if compat == "mergekit" else deltas
    agree = np.sign(merging) == np.where(merging.sum(0) >= 0, 1, -1)
    divisor = (shares[:, None] * agree).sum(0)
    merged_delta = (shares[:, None] * agree * merging).sum(0) / np.where(divisor == 0, 1, divisor)
    return base.double() + torch.from_numpy(merged_delta).view(base.shape)


@examples
@given(seed=st.integers(0, 2**31), compat=st.sampled_from(["official", "mergekit"]), tiny=st.booleans())
def test_against_whole_tensors_in_float64(seed: int, compat: str, tiny: bool) -> None:
    random = np.random.default_rng(seed)
    base, *inputs = random_models(seed, 3, torch.float32, (7, 501))
    base, inputs = base * 0, [(model - base) * (2.0**-12 if tiny else 1) for model in inputs]
    for model in inputs:
        model[:, :200] = inputs[0][:, :200]  # where nothing varies, nothing is selected
    topk, weight = float(random.uniform(0.05, 1)), random.uniform(0.1, 1, 3).tolist()
    result = merged("sce", base, inputs, {"select_topk": topk, "weight": weight}, options={"compat": compat})
    expected = reference(base, inputs, topk, weight, compat)
    scale = float(expected.abs().max())
    # A variance or a vote within rounding of its bound may go the other way.
    wrong = ~torch.isclose(result.double(), expected, rtol=1e-5, atol=1e-6 * scale)
    assert int(wrong.sum()) <= 2


def test_worked_examples() -> None:
    whole = [3.053025, -3.196428, -4, 0.668559, -2.5, 0.354611]
    for options in (fixed({}), MERGEKIT):
        check(merged_delta("sce", {"select_topk": 1}, options=options), whole)
    half = {"select_topk": 0.5}
    check(merged_delta("sce", half), [3.164425, -3.161926, -4, 0.707549, -2.5, 0.350072])
    check(merged_delta("sce", half, options=MERGEKIT), [3.164425, -3.161926, -4, 0, 0, 0])


def test_small_deltas_are_weighted_alike_only_as_in_mergekit() -> None:
    zero, small = torch.zeros(6), [delta * 1e-4 for delta in DELTAS]
    values = fixed({"select_topk": 1})
    check(merged("sce", zero, small, values, options=MERGEKIT) * 1e4, [3, -3.25, -4, 0.65, -2.5, 0.375])
    expected = merged("sce", zero, DELTAS, values)
    torch.testing.assert_close(merged("sce", zero, small, values) * 1e4, expected)


def test_equal_deltas_and_nothing_selected() -> None:
    zero, delta = torch.zeros(6), DELTAS[0]
    assert torch.equal(merged("sce", zero, [delta, delta], {"select_topk": 0.5}), delta)
    assert merged("sce", zero, [delta, delta], {"select_topk": 0.5}, options=MERGEKIT).tolist() == [0] * 6
    assert torch.equal(merged("sce", zero, [delta, delta], {"select_topk": 1}, options=MERGEKIT), delta)
    check(merged("sce", zero, DELTAS, {"select_topk": 0}), [3, -3.25, -4, 0.65, -2.5, 0.375])


def test_equal_norms_are_ties_without_trimming() -> None:
    inputs = [delta / delta.norm() for delta in DELTAS]
    result = merged("sce", torch.zeros(6), inputs, {"select_topk": 1})
    torch.testing.assert_close(result, merged("ties", torch.zeros(6), inputs, {"density": [1] * 3}))


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(MethodError, match=r"select_topk must lie between 0 and 1; it is 1.5"):
        merged_delta("sce", {"select_topk": 1.5})
