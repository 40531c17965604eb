from pathlib import Path

import pytest
import torch

from evomerge.merging.kernels.lora_parts import keep_largest
from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.adapters import check_like_peft, lora
from tests.evomerge.merging.folders import llama
from tests.evomerge.merging.vectors import check, merged_delta

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class TestLoraMagnitudePrune(MergeMethodContract):
    """The kit's models are whole ones, whose changes are pruned as they are."""

    name = "lora_magnitude_prune"
    values = fixed({"weight": (0.5, 0.7, -0.2), "density": (0.5, 0.3, 0.9)})
    one_hot = fixed({"density": 1.0})
    averages = False  # a sum
    hull = False  # a sum may leave it
    rotates = False  # elements are pruned


@pytest.mark.parametrize("density", [1.0, 0.4])
def test_gives_what_peft_gives(tmp_path: Path, density: float) -> None:
    base = llama(tmp_path / "base")
    adapters = [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2, target_modules=["q_proj", "up_proj"])]
    values = {"weight": (0.8, -0.5), "density": density}
    check_like_peft(base, adapters, "lora_magnitude_prune", values, "magnitude_prune", density=density)


def test_whole_changes_are_pruned_by_count() -> None:
    """Of six elements each keeps three: (4, -3, 2), (-1.2, -3.5, 2) and (2, -4, -2.5) at their places."""
    found = merged_delta("lora_magnitude_prune", {"weight": 1.0, "density": 0.5})
    check(found, [4 + 2, -3 - 3.5, 2 - 4, -1.2, 2 - 2.5, 0])


def test_among_equal_magnitudes_the_lowest_index_stays() -> None:
    values = torch.tensor([[1.0, -2.0, 2.0], [2.0, 0.5, -2.0]])
    assert keep_largest(values.clone(), 0.5).tolist() == [[0, -2, 2], [2, 0, 0]]
    assert keep_largest(values.clone(), 0.1).count_nonzero() == 0
    assert torch.equal(keep_largest(values.clone(), 1.0), values)
