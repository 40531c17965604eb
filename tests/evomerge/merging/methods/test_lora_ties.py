from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.adapters import bare_lora, check_like_peft, lora, merged_here
from tests.evomerge.merging.folders import bare, llama
from tests.evomerge.merging.vectors import check, merged_delta

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class TestLoraTies(MergeMethodContract):
    """The kit's models are whole ones, whose changes are trimmed, elected and averaged as they are."""

    name = "lora_ties"
    values = fixed({"weight": (1.0, 0.7, 0.4), "density": (0.5, 0.3, 0.9)})
    one_hot = None  # models of weight zero vote, and count where they agree
    averages = False  # not with weights other than 1
    hull = False  # trimmed elements are those of the base, but a base is no bound of the others' mean
    rotates = False  # works on elements


@pytest.mark.slow
class TestLoraTiesByNumber(TestLoraTies):
    options = fixed({"election": "frequency"})


@pytest.mark.parametrize("election", ["total", "frequency"])
@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("weight", [(0.8, 0.5), (0.8, -0.5)])
def test_gives_what_peft_gives(
    tmp_path: Path, election: Literal["total", "frequency"], density: float, weight: tuple[float, float]
) -> None:
    base = llama(tmp_path / "base")
    adapters = [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2, target_modules=["q_proj", "up_proj"])]
    values = {"weight": weight, "density": density}
    check_like_peft(base, adapters, "lora_ties", values, "ties", density=density, election=election)


def test_votes_on_each_factor() -> None:
    """Whole changes: sums of the first three columns 5, -5.6, -1.2, then 0.1, -0.4, 0.25, at density 1."""
    found = merged_delta("lora_ties", {"weight": 1.0, "density": 1.0})
    check(found, [(4 + 2) / 2, (-3 - 3.5) / 2, -4, (1 + 0.3) / 2, -2.5, (0.5 + 0.25) / 2])


def test_a_sum_of_zero_elects_plus(tmp_path: Path) -> None:
    base = bare(tmp_path / "base", {"x.weight": torch.zeros(1, 2)})
    adapters = [
        bare_lora(tmp_path / name, {"x.lora_A.weight": torch.tensor([a]), "x.lora_B.weight": torch.ones(1, 1)})
        for name, a in (("a", [1.0, 3.0]), ("b", [-1.0, 1.0]))
    ]
    found = merged_here(base, adapters, "lora_ties", {"weight": (1, 1), "density": 1})["x.weight"]
    assert found.tolist() == [[1.0, 2.0]]
