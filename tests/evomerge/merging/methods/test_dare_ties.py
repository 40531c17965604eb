import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.masks import kept
from tests.evomerge.merging.vectors import merged_delta

VALUES = {"weight": [0.25, 0.5, 0.875], "density": [0.3, 0.5, 0.9], "scale": 1.1}
WHOLE = fixed({"density": [1.0] * 3})


class TestDareTies(MergeMethodContract):
    name = "dare_ties"
    smooth = False  # weights decide elections
    values = VALUES
    one_hot = WHOLE


@pytest.mark.slow
class TestDareTiesAsMergekit(MergeMethodContract):
    name = "dare_ties"
    smooth = False  # weights decide elections
    options = fixed({"rescale": "mergekit", "normalize": True})
    values = VALUES
    one_hot = WHOLE


@pytest.mark.slow
class TestDareTiesAsPeft(MergeMethodContract):
    name = "dare_ties"
    options = fixed({"compat": "peft", "normalize": True})
    values = VALUES
    one_hot = None  # an input of weight zero votes and is counted


def test_density_one_is_ties_without_trimming() -> None:
    values = fixed({"weight": [0.5, 0.25, 0.75], "density": [1] * 3})
    for options in ({"normalize": False}, {"normalize": True}, {"normalize": True, "compat": "peft"}):
        result = merged_delta("dare_ties", values, options=options)
        assert torch.equal(result, merged_delta("ties", values, options=options))


def test_against_whole_tensors_in_float64() -> None:
    base, *inputs = random_models(4, 3, torch.float32, (70, 1003))
    result = merged("dare_ties", base, inputs, VALUES, seed=9)
    weighted = []
    for model, name, w, density in zip(
        inputs, ("math", "code", "chat"), VALUES["weight"], VALUES["density"], strict=True
    ):
        delta = (model - base).double()
        weighted.append(w * delta * kept(delta, 9, name, density) / density)
    votes = torch.stack(weighted)
    elected = torch.where(votes.sum(0) >= 0, 1.0, -1.0)
    expected = base.double() + 1.1 * (votes * (votes.sign() == elected)).sum(0)
    wrong = ~torch.isclose(result.double(), expected, rtol=1e-6, atol=1e-6)
    assert int(wrong.sum()) <= 1  # a vote within rounding of zero
