from pathlib import Path

import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.adapters import bare_lora, check_like_peft, lora, merged_here, small_pair
from tests.evomerge.merging.folders import bare, llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MORE = ["q_proj", "down_proj"]


class TestLoraLinear(MergeMethodContract):
    """The kit's models are whole ones, whose changes are summed up as they are."""

    name = "lora_linear"
    values = fixed({"weight": (0.5, 0.7, -0.2)})
    averages = False  # a sum
    hull = False  # a sum may leave it
    rotates = True


def test_cross_terms_of_factors(tmp_path: Path) -> None:
    base, adapters = small_pair(tmp_path)
    factors = merged_here(base, adapters, "lora_linear", {"weight": (0.5, 0.5)})["x.weight"]
    torch.testing.assert_close(factors, torch.tensor([[0.5, 1.0], [0.5, 1.0]]))
    exact = merged_here(base, adapters, "task_arithmetic", {"weight": (0.5, 0.5)})["x.weight"]
    torch.testing.assert_close(exact, torch.tensor([[0.5, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("weight", [(0.5, 0.5), (1.3, -0.4), (0.0, 0.7)])
def test_gives_what_peft_gives(tmp_path: Path, weight: tuple[float, float]) -> None:
    """Other scales, one of them rank-stabilised, and layers that only one of the adapters has."""
    base = llama(tmp_path / "base")
    adapters = [
        lora(tmp_path / "a", base, 1, lora_alpha=10),
        lora(tmp_path / "b", base, 2, target_modules=MORE, use_rslora=True),
    ]
    check_like_peft(base, adapters, "lora_linear", {"weight": weight}, "linear")


@pytest.mark.parametrize("weight", [(0.5, 0.5), (1.3, -0.4)])
def test_task_arithmetic_is_cat(tmp_path: Path, weight: tuple[float, float]) -> None:
    base = llama(tmp_path / "base")
    adapters = [lora(tmp_path / "a", base, 1, r=2), lora(tmp_path / "b", base, 2, r=3, target_modules=MORE)]
    check_like_peft(base, adapters, "task_arithmetic", {"weight": weight}, "cat")
    check_like_peft(base, adapters, "task_arithmetic", {"weight": weight}, "svd", svd_rank=5)


def test_refuses_different_ranks(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapters = [lora(tmp_path / "a", base, 1, r=2), lora(tmp_path / "b", base, 2, r=3)]
    with pytest.raises(MethodError, match=r"adapter0 2, adapter1 3\. task_arithmetic merges any"):
        merged_here(base, adapters, "lora_linear", {"weight": (0.5, 0.5)})


def test_changes_that_are_no_factors_are_summed_up(tmp_path: Path) -> None:
    """One adapter has DoRA's magnitudes: what it changes is no product of two factors."""
    base = llama(tmp_path / "base")
    adapters = [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2, use_dora=True, target_modules=["q_proj"])]
    found = merged_here(base, adapters, "lora_linear", {"weight": (0.5, 0.25)})
    summed = merged_here(base, adapters, "task_arithmetic", {"weight": (0.5, 0.25)})
    one = "model.layers.0.self_attn.{}_proj.weight"
    torch.testing.assert_close(found[one.format("q")], summed[one.format("q")])
    torch.testing.assert_close(found[one.format("v")], summed[one.format("v")])
    assert torch.equal(found[one.format("k")], summed[one.format("k")])


def test_a_weight_stored_with_a_row_per_input(tmp_path: Path) -> None:
    base = bare(tmp_path / "base", {"x.weight": torch.zeros(3, 2)})
    factors = {"x.lora_A.weight": torch.tensor([[1.0, 2, 3]]), "x.lora_B.weight": torch.tensor([[1.0], [-1]])}
    adapters = [bare_lora(tmp_path / name, factors, fan_in_fan_out=True) for name in "ab"]
    found = merged_here(base, adapters, "lora_linear", {"weight": (0.5, 0.5)})["x.weight"]
    # Two equal adapters with weights 1/2: the roots add up to root 2 in each factor, to 2 in the product.
    torch.testing.assert_close(found, torch.tensor([[2.0, -2], [4, -4], [6, -6]]))
