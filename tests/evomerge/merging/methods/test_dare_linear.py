import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.masks import kept, mean_over_masks
from tests.evomerge.merging.vectors import DELTAS, check, merged_delta

VALUES = {"weight": [0.3, -0.2, 0.8], "density": [0.3, 0.5, 0.9], "scale": 1.1}


class TestDareLinear(MergeMethodContract):
    name = "dare_linear"
    values = VALUES
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})
    permutes = True  # a mask belongs to an input's name, not to its place


@pytest.mark.slow
class TestUnscaledDareLinear(MergeMethodContract):
    name = "dare_linear"
    options = fixed({"rescale": "paper"})
    values = fixed({**VALUES, "scale": 1.0})
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})
    unbiased = True


@pytest.mark.slow
class TestDareLinearAsMergekit(MergeMethodContract):
    name = "dare_linear"
    options = fixed({"rescale": "mergekit", "normalize": True})
    values = fixed({**VALUES, "weight": [0.3, 0.2, 0.8]})
    linear = False  # in its weights, which are normalized
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})


def test_density_one_is_task_arithmetic() -> None:
    values = fixed({"weight": [0.5, 0.3, 0.2]})
    result = merged_delta("dare_linear", {**values, "density": [1] * 3})
    assert torch.equal(result, merged_delta("task_arithmetic", values))


@pytest.mark.parametrize("rescale", ["paper", "mergekit", "none"])
def test_against_whole_tensors_in_float64(rescale: str) -> None:
    base, *inputs = random_models(4, 3, torch.bfloat16, (70, 1003))
    result = merged("dare_linear", base, inputs, VALUES, options={"rescale": rescale}, dtype=torch.float32, seed=9)
    expected = base.double()
    for model, name, w, density in zip(
        inputs, ("math", "code", "chat"), VALUES["weight"], VALUES["density"], strict=True
    ):
        delta = model.double() - base.double()
        thinned = delta * kept(delta, 9, name, density)
        factor = {"paper": 1 / density, "none": 1.0, "mergekit": float(delta.abs().sum() / thinned.abs().sum())}
        expected = expected + 1.1 * w * factor[rescale] * thinned
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)


def seed_that_keeps(mask: list[int]) -> int:
    """One of the seeds under which exactly these elements stay at density 0.5."""
    wanted = torch.tensor(mask).double()
    return next(seed for seed in range(2000) if torch.equal(kept(DELTAS[0], seed, "math", 0.5), wanted))


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [
        ("paper", [8, 0, 4, 2, 0.2, 0]),
        ("mergekit", [5.971831, 0, 2.985916, 1.492958, 0.149296, 0]),
        ("none", [4, 0, 2, 1, 0.1, 0]),
    ],
)
def test_worked_example_of_a_mask(rescale: str, expected: list[float]) -> None:
    seed = seed_that_keeps([1, 0, 1, 1, 1, 0])
    check(merged("dare_linear", torch.zeros(6), DELTAS[:1], {}, options={"rescale": rescale}, seed=seed), expected)


def test_restoring_the_norm_as_mergekit_does_is_biased() -> None:
    options = {"rescale": "mergekit"}
    mean = mean_over_masks(
        lambda seed: merged("dare_linear", torch.zeros(6), DELTAS[:1], {}, options=options, seed=seed),
        lambda seed: kept(DELTAS[0], seed, "math", 0.5),
        torch.full((6,), 0.5),
    )
    by_fractions = [3.130032, -2.680824, 2.112129, 1.352443, 0.310664, -0.848283]
    assert mean.tolist() == pytest.approx(by_fractions, abs=2e-6)
    assert bool(((mean - DELTAS[0]).abs() > 0.1).all())


def test_rescaled_deltas_have_their_expected_value() -> None:
    delta = torch.tensor([4, -3, 2, 1, 0.1, -0.5])
    density, n_rows = 0.3, 20_000
    drawn = merged("dare_linear", torch.zeros(n_rows, 6), [delta.expand(n_rows, 6)], {"density": [density]})
    error = delta.abs() * ((1 - density) / density / n_rows) ** 0.5
    assert bool(((drawn.mean(0) - delta).abs() < 4 * error).all())
    allowed = torch.stack([torch.zeros(6), delta / density])
    assert bool(torch.isclose(drawn[:, None], allowed).any(1).all())


def test_density_zero_is_the_base() -> None:
    for rescale in ("paper", "mergekit", "none"):
        result = merged_delta("dare_linear", {"density": [0] * 3}, options={"rescale": rescale})
        assert result.tolist() == [0] * 6


def test_a_density_that_is_no_share_is_refused() -> None:
    with pytest.raises(MethodError, match=r"between 0 and 1; it is -0\.5"):
        merged_delta("dare_linear", {"density": [0.5, -0.5, 0.5]})
