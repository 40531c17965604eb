from pathlib import Path

import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.adapters import bare_lora, lora, merged_here
from tests.evomerge.merging.folders import bare, llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class TestLoraDareTies(MergeMethodContract):
    """The kit's models are whole ones, whose changes are thinned, elected and averaged as they are."""

    name = "lora_dare_ties"
    values = fixed({"weight": (1.0, 0.7, 0.4), "density": (0.5, 0.3, 0.9)})
    one_hot = None  # models of weight zero vote, and count where they agree
    averages = False  # not with weights other than 1
    hull = False  # what stays is enlarged
    unbiased = False  # an election is none
    rotates = False  # works on elements


@pytest.mark.slow
class TestLoraDareTiesByNumber(TestLoraDareTies):
    options = fixed({"election": "frequency"})


@pytest.mark.parametrize("election", ["total", "frequency"])
def test_density_one_equals_lora_ties(tmp_path: Path, election: str) -> None:
    base = llama(tmp_path / "base")
    adapters = [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2)]
    values = {"weight": (0.8, 0.5), "density": 1.0}
    thinned = merged_here(base, adapters, "lora_dare_ties", values, election=election)
    elected = merged_here(base, adapters, "lora_ties", values, election=election)
    assert all(torch.equal(tensor, elected[name]) for name, tensor in thinned.items())


def test_a_dropped_element_does_not_vote(tmp_path: Path) -> None:
    """A1 = 1 and A2 = -3 everywhere: plus wins exactly where A2 is dropped and A1 is not."""
    n = 2000
    base = bare(tmp_path / "base", {"x.weight": torch.zeros(1, n)})
    adapters = [
        bare_lora(tmp_path / name, {"x.lora_A.weight": torch.full((1, n), a), "x.lora_B.weight": torch.ones(1, 1)})
        for name, a in (("a", 1.0), ("b", -3.0))
    ]
    values = {"weight": 1.0, "density": 0.5}
    # One of the seeds under which the single elements of B stay, so that what is seen is A.
    found = next(
        x for seed in range(20) if (x := merged_here(base, adapters, "lora_dare_ties", values, seed)["x.weight"]).any()
    )
    plus, minus, nobody = (float(share.float().mean()) for share in (found > 0, found < 0, found == 0))
    assert abs(plus - 0.25) < 0.05
    assert abs(minus - 0.5) < 0.05
    assert abs(nobody - 0.25) < 0.05
