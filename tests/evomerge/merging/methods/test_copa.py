from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.adapters import bare_lora, merged_here
from tests.evomerge.merging.folders import bare

A1, B1 = [[4, -1, 2], [3, 0.5, -2]], [[1, -2], [3, 0.5]]
A2, B2 = [[1, 2, -3], [-4, 1.5, 0.5]], [[2, 1], [-1, 4]]


class TestCopa(MergeMethodContract):
    """The kit's models are whole ones, which are averaged."""

    name = "copa"
    values = fixed({"weight": (2.0, 1.0, 0.5)})
    averages = True
    hull = True
    rotates = True


def adapters(folder: Path, *pairs: tuple[Any, Any], **settings: Any) -> tuple[Path, list[Path]]:
    rank, n_inputs = np.shape(pairs[0][0])
    base = bare(folder / "base", {"x.weight": torch.zeros(len(pairs[0][1]), n_inputs)})
    made = [
        bare_lora(
            folder / str(n),
            {"x.lora_A.weight": torch.tensor(a).float(), "x.lora_B.weight": torch.tensor(b).float()},
            **{"r": rank, "lora_alpha": rank, **settings},
        )
        for n, (a, b) in enumerate(pairs)
    ]
    return base, made


def test_the_published_example(tmp_path: Path) -> None:
    base, made = adapters(tmp_path, (A1, B1), (A2, B2))
    found = merged_here(base, made, "copa", {"weight": 2, "density": 0.5, "clamp": 0.2})["x.weight"]
    a = torch.tensor([[8.0, 4, -2], [-2, 3, -4]])
    b = torch.tensor([[3.014084, -0.957746], [1.943662, 4.056338]])
    torch.testing.assert_close(found, b @ a, rtol=0, atol=2e-5)


def test_without_pruning_a_is_summed_up_and_b_averaged(tmp_path: Path) -> None:
    base, made = adapters(tmp_path, (A1, B1), (A2, B2), lora_alpha=6)
    found = merged_here(base, made, "copa", {"weight": 1.5, "density": 1.0})["x.weight"]
    a = 1.5 * (torch.tensor(A1) + torch.tensor(A2))
    b = 1.5 * (torch.tensor(B1) + torch.tensor(B2)) / 2
    torch.testing.assert_close(found, 3 * (b @ a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_larger_density_keeps_more_and_all_equal_to_the_threshold(tmp_path: Path, dtype: torch.dtype) -> None:
    """B is the identity, of which nothing is pruned: what stays of A is what stays of the change."""
    sizes = torch.randint(1, 9, (4, 50), generator=torch.Generator().manual_seed(0)).to(dtype)
    base = bare(tmp_path / "base", {"x.weight": torch.zeros(4, 50)})
    factors = {"x.lora_A.weight": sizes / 8, "x.lora_B.weight": torch.eye(4, dtype=dtype)}
    made = [bare_lora(tmp_path / "a", factors, r=4, lora_alpha=4)]
    for density in (0.05, 0.2, 0.5, 0.8, 1.0):
        found = merged_here(base, made, "copa", {"density": density})["x.weight"]
        place = max(int(200 * (1 - density)), 1)
        assert torch.equal(found != 0, sizes >= sizes.float().flatten().sort().values[place - 1])


def test_order_does_not_matter(tmp_path: Path) -> None:
    base, made = adapters(tmp_path, (A1, B1), (A2, B2))
    values = {"density": (0.5, 0.3), "weight": (2.0, 1.0)}
    found = merged_here(base, made, "copa", values)["x.weight"]
    swapped = {name: value[::-1] for name, value in values.items()}
    torch.testing.assert_close(merged_here(base, made[::-1], "copa", swapped)["x.weight"], found)


def test_a_row_of_which_nothing_is_left_counts_as_it_is(tmp_path: Path) -> None:
    base, made = adapters(tmp_path, ([[9.0, 8, 7], [0.1, 0.1, 0.1]], B1), (A2, B2))
    found = merged_here(base, made, "copa", {"density": 0.4, "clamp": 1.0})["x.weight"]
    assert bool(torch.isfinite(found).all())


def test_other_scales_of_the_adapters_count_in_b(tmp_path: Path) -> None:
    """Twice the scale is twice B."""
    base, made = adapters(tmp_path, (A1, B1), (A2, (2 * np.array(B2)).tolist()))
    expected = merged_here(base, made, "copa", {"density": 0.5})["x.weight"]
    _, doubled = adapters(tmp_path / "b", (A2, B2), lora_alpha=4)
    found = merged_here(base, [made[0], doubled[0]], "copa", {"density": 0.5})["x.weight"]
    torch.testing.assert_close(found, expected)


def test_refuses_a_clamp_that_is_no_share(tmp_path: Path) -> None:
    base, made = adapters(tmp_path, (A1, B1), (A2, B2))
    with pytest.raises(MethodError, match=r"clamp must lie between 0 and 1; it is 1\.5"):
        merged_here(base, made, "copa", {"clamp": 1.5})
