import numpy as np
import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.methods.test_breadcrumbs import middle
from tests.evomerge.merging.vectors import merged_delta

WEIGHT, DENSITY, GAMMA = [0.25, 0.5, 0.875], [0.3, 0.5, 0.9], [0.02, 0.05, 0.3]
VALUES = fixed({"weight": WEIGHT, "density": DENSITY, "gamma": GAMMA, "scale": 1.1})
WHOLE = fixed({"density": [1.0] * 3, "gamma": [0.0] * 3})


class TestBreadcrumbsTies(MergeMethodContract):
    name = "breadcrumbs_ties"
    smooth = False  # weights decide elections
    values = VALUES
    one_hot = WHOLE


@pytest.mark.slow
class TestBreadcrumbsTiesAsMergekit(MergeMethodContract):
    name = "breadcrumbs_ties"
    smooth = False  # weights decide elections
    options = fixed({"compat": "mergekit", "normalize": True, "rescale": "mergekit"})
    values = VALUES
    one_hot = WHOLE


def test_full_density_equals_ties_without_trimming() -> None:
    values = fixed({"weight": [0.5, 0.25, 0.75], "density": [1] * 3, "gamma": [0] * 3, "scale": 0.8})
    ties = {name: value for name, value in values.items() if name != "gamma"}
    for normalize in (False, True):
        options = {"normalize": normalize}
        assert torch.equal(
            merged_delta("breadcrumbs_ties", values, options=options), merged_delta("ties", ties, options=options)
        )


@pytest.mark.parametrize("compat", ["official", "mergekit"])
def test_against_whole_tensors_in_float64(compat: str) -> None:
    base, *inputs = random_models(4, 3, torch.float32, (70, 103))
    result = merged("breadcrumbs_ties", base, inputs, VALUES, options={"compat": compat})
    votes = np.stack(
        [
            WEIGHT[i] * middle((model - base).double().numpy(), DENSITY[i], GAMMA[i], compat)
            for i, model in enumerate(inputs)
        ]
    )
    elected = np.where(votes.sum(0) >= 0, 1, -1)
    expected = base.double() + 1.1 * torch.from_numpy((votes * (np.sign(votes) == elected)).sum(0))
    wrong = ~torch.isclose(result.double(), expected, rtol=1e-6, atol=1e-6)
    assert int(wrong.sum()) <= 1  # a vote within rounding of zero
