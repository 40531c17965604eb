import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.methods.test_della_linear import thinned
from tests.evomerge.merging.vectors import merged_delta

WEIGHT, DENSITY, EPSILON = [0.25, 0.5, 0.875], [0.3, 0.5, 0.9], [0.1, 0.3, 0.05]
VALUES = fixed({"weight": WEIGHT, "density": DENSITY, "epsilon": EPSILON, "scale": 1.1})
WHOLE = fixed({"density": [1.0] * 3})


class TestDella(MergeMethodContract):
    name = "della"
    smooth = False  # weights decide elections
    values = VALUES
    one_hot = WHOLE


@pytest.mark.slow
class TestDellaAsMergekit(MergeMethodContract):
    name = "della"
    smooth = False  # weights decide elections
    options = fixed({"rescale": "mergekit", "normalize": False})
    values = VALUES
    one_hot = WHOLE


def test_density_one_is_ties_without_trimming() -> None:
    values = fixed({"weight": [0.5, 0.25, 0.75], "density": [1] * 3, "scale": 0.8})
    for options in ({"normalize": False}, {"normalize": True}):
        assert torch.equal(
            merged_delta("della", values, options=options), merged_delta("ties", values, options=options)
        )


@pytest.mark.parametrize("rescale", ["paper", "mergekit", "none"])
@pytest.mark.parametrize("normalize", [True, False])
def test_against_whole_tensors_in_float64(rescale: str, normalize: bool) -> None:
    base, *inputs = random_models(4, 3, torch.float32, (70, 103))
    options = {"rescale": rescale, "normalize": normalize}
    result = merged("della", base, inputs, VALUES, options=options, seed=9)
    weighted = torch.stack(
        [
            WEIGHT[i] * thinned((model - base).double(), name, DENSITY[i], EPSILON[i], rescale, 9)
            for i, (model, name) in enumerate(zip(inputs, ("math", "code", "chat"), strict=True))
        ]
    )
    elected = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agree = weighted.sign() == elected
    expected = (weighted * agree).sum(0)
    if normalize:
        divisor = (agree * torch.tensor(WEIGHT).view(3, 1, 1)).sum(0)
        expected = expected / torch.where(divisor == 0, 1, divisor)
    wrong = ~torch.isclose(result.double(), base.double() + 1.1 * expected, rtol=1e-5, atol=1e-6)
    assert int(wrong.sum()) <= 1  # a vote within rounding of zero


def test_a_wide_epsilon_is_refused_as_in_mergekit() -> None:
    assert merged_delta("della", {"density": [0.1] * 3}).isfinite().all()
    with pytest.raises(MethodError, match=r"density 0.1 plus and minus epsilon 0.15"):
        merged_delta("della", {"density": [0.1] * 3}, options={"compat": "mergekit"})
