from pathlib import Path

import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.adapters import bare_lora, lora, merged_here
from tests.evomerge.merging.folders import bare, llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class TestLoraDareLinear(MergeMethodContract):
    """The kit's models are whole ones, whose changes are thinned as they are."""

    name = "lora_dare_linear"
    values = fixed({"weight": (0.5, 0.7, -0.2), "density": (0.5, 0.3, 0.9)})
    one_hot = fixed({"density": 1.0})
    averages = False  # a sum
    hull = False  # what stays is enlarged
    unbiased = True
    rotates = False  # works on elements


def random_adapters(folder: Path) -> tuple[Path, list[Path]]:
    base = bare(folder / "base", {"x.weight": torch.zeros(5, 4)})
    random = torch.Generator().manual_seed(3)
    adapters = [
        bare_lora(
            folder / name,
            {
                "x.lora_A.weight": torch.randn(2, 4, generator=random),
                "x.lora_B.weight": torch.randn(5, 2, generator=random),
            },
            r=2,
        )
        for name in "ab"
    ]
    return base, adapters


def test_density_one_equals_lora_linear(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapters = [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2)]
    weight = (0.8, -0.5)
    thinned = merged_here(base, adapters, "lora_dare_linear", {"weight": weight, "density": 1.0})
    summed = merged_here(base, adapters, "lora_linear", {"weight": weight})
    assert all(torch.equal(tensor, summed[name]) for name, tensor in thinned.items())


@pytest.mark.slow
def test_factors_are_thinned_independently_and_without_bias(tmp_path: Path) -> None:
    """On average over the masks it is lora_linear, whose factors are multiplied: masks of A and B are independent."""
    base, adapters = random_adapters(tmp_path)
    values = {"weight": (0.8, -0.5), "density": (0.6, 0.4)}
    drawn = torch.stack(
        [merged_here(base, adapters, "lora_dare_linear", values, seed)["x.weight"] for seed in range(400)]
    ).double()
    expected = merged_here(base, adapters, "lora_linear", {"weight": values["weight"]})["x.weight"].double()
    error = drawn.std(0) / len(drawn) ** 0.5
    assert bool(((drawn.mean(0) - expected).abs() < 4.5 * error).all())
    assert bool((error > 0).all())


def test_density_zero_is_the_base(tmp_path: Path) -> None:
    base, adapters = random_adapters(tmp_path)
    found = merged_here(base, adapters, "lora_dare_linear", {"weight": 1.0, "density": 0.0})
    assert found["x.weight"].count_nonzero() == 0
