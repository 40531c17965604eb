"""What all sparsifying methods keep of one delta: how many elements, which of equal ones, more at a larger density."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.contracts.merge_method import fixed, merged

DTYPES = [torch.float32, torch.bfloat16]
DENSITIES = (0.0, 0.01, 0.1, 0.34, 0.5, 0.73, 0.999, 1.0)
ROWS, COLUMNS = 7, 501
SIZE = ROWS * COLUMNS

#: Method, options, what is added to int(density * n): the largest are kept, exactly as many, the first of equals.
EXACT = [
    ("ties", {}, 0),
    ("ties", {"compat": "peft"}, 0),
    ("ties", {"rescale": "mergekit"}, 0),
    ("consensus_ties", {"votes": 0}, 1),
    ("magnitude_prune", {}, 0),
    ("lora_magnitude_prune", {}, 0),
    ("lora_ties", {}, 0),
    ("compeft", {}, 1),
    ("compeft", {"values": "prune"}, 1),
    ("breadcrumbs", {"compat": "mergekit"}, 0),
    ("breadcrumbs_ties", {"compat": "mergekit"}, 0),
]
RANDOM = [
    ("dare_linear", {}),
    ("dare_linear", {"rescale": "mergekit"}),
    ("dare_ties", {}),
    ("darex_q", {}),
    ("della", {}),
    ("della_linear", {}),
    ("lora_dare_linear", {}),
    ("lora_dare_ties", {}),
]
#: Left at zero where a method has them: no outliers are removed, all elements of a row have one probability.
OTHERS = fixed({"gamma": 0.0})
GAMMA = ("breadcrumbs", "breadcrumbs_ties")


def tied(dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A delta without zeros whose magnitudes are all shared by many elements, as those of bfloat16 models are."""
    random = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 9, (ROWS, COLUMNS), generator=random)
    return (sizes * (1 - 2 * torch.randint(0, 2, sizes.shape, generator=random))).to(dtype) / 64


def sparse(method: str, delta: Tensor, density: float, options: Mapping[str, Any], seed: int = 0) -> Tensor:
    """The merged delta, float32, of one input alone."""
    values = {"density": density, **(OTHERS if method in GAMMA else {})}
    base = torch.zeros_like(delta)
    return merged(method, base, [delta], values, options=options, seed=seed, dtype=torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("method", "options", "more"), EXACT)
def test_exactly_the_largest_are_kept_the_first_of_equals(
    method: str, options: Mapping[str, Any], more: int, dtype: torch.dtype
) -> None:
    delta = tied(dtype)
    order = np.argsort(-delta.float().abs().flatten().numpy(), kind="stable")
    for density in DENSITIES[1:-1]:
        found = sparse(method, delta, density, options).flatten()
        expected = np.zeros(SIZE, dtype=bool)
        expected[order[: int(density * SIZE) + more]] = True
        np.testing.assert_array_equal(found.numpy() != 0, expected)
        assert torch.equal(found.sign(), delta.float().flatten().sign() * torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", GAMMA)
def test_exactly_the_largest_of_every_row_are_kept_the_first_of_equals(method: str, dtype: torch.dtype) -> None:
    delta = tied(dtype)
    order = np.argsort(-delta.float().abs().numpy(), axis=1, kind="stable")
    for density in DENSITIES[1:-1]:
        expected = np.zeros((ROWS, COLUMNS), dtype=bool)
        np.put_along_axis(expected, order[:, : int(density * COLUMNS)], True, axis=1)
        found = sparse(method, delta, density, {"compat": "official"})
        np.testing.assert_array_equal(found.numpy() != 0, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compat", ["official", "mergelm"])
def test_all_equal_to_the_threshold_are_kept_by_the_codes_of_ties(compat: str, dtype: torch.dtype) -> None:
    delta = tied(dtype)
    sizes = delta.float().abs()
    for density in DENSITIES[1:-1]:
        rank = SIZE - int(SIZE * density) if compat == "official" else int(round(SIZE * (1 - density), 6))
        threshold = sizes.flatten().sort().values[rank - 1]
        found = sparse("ties", delta, density, {"compat": compat})
        assert torch.equal(found != 0, sizes >= threshold)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("method", "options"), [*((name, given) for name, given, _ in EXACT), *RANDOM])
def test_larger_densities_keep_supersets(method: str, options: Mapping[str, Any], dtype: torch.dtype) -> None:
    delta = tied(dtype)
    supports = [sparse(method, delta, density, options, seed=4) != 0 for density in DENSITIES]
    for smaller, larger in pairwise(supports):
        assert bool((larger | ~smaller).all())
        assert int(larger.sum()) > int(smaller.sum())
    assert not supports[0].any()
    assert supports[-1].all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("method", "options"), RANDOM)
def test_at_random_the_share_that_is_kept_is_the_density(
    method: str, options: Mapping[str, Any], dtype: torch.dtype
) -> None:
    many = tied(dtype).repeat(60, 1)
    for density in (0.05, 0.5, 0.9):
        share = float((sparse(method, many, density, options) != 0).float().mean())
        assert abs(share - density) < 4 * (density * (1 - density) / many.numel()) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("method", "options"), [case for case in RANDOM if case[1].get("rescale") != "mergekit"])
def test_at_random_the_mean_over_the_masks_is_the_delta(
    method: str, options: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Every row is a draw: 4000 of one row. An election among one input elects it."""
    row = tied(dtype)[0, :40]
    values = {"density": 0.3, **({"inverse_q": 1 / 0.3} if method == "darex_q" else {})}
    rows = row.expand(4000, 40).contiguous()
    drawn = merged(method, torch.zeros_like(rows), [rows], values, options=options, dtype=torch.float32).double()
    error = drawn.std(0) / len(drawn) ** 0.5
    assert bool((error > 0).all())
    assert bool(((drawn.mean(0) - row.double()).abs() < 4.5 * error).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_sce_selects_exactly_the_first_of_equal_variances(dtype: torch.dtype) -> None:
    """Two models of opposite deltas: variances are their squares. What is selected shows as mergekit merges."""
    size = tied(dtype).abs()
    order = np.argsort(-size.float().flatten().numpy(), kind="stable")
    base, options = torch.zeros_like(size), {"compat": "mergekit"}
    for share in DENSITIES[1:]:
        found = merged("sce", base, [size, -size], {"select_topk": share}, options=options)
        expected = np.zeros(SIZE, dtype=bool)
        expected[order[: int(share * SIZE)]] = True
        np.testing.assert_array_equal((found != 0).flatten().numpy(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compat", ["official", "vision", "vision_es"])
def test_pcb_lets_those_compete_whose_balance_is_above_that_of_the_rank(compat: str, dtype: torch.dtype) -> None:
    """Alone, a delta's balance grows with its magnitude; who is at the bound has a score of zero, as do its equals."""
    delta = tied(dtype)
    sizes = delta.float().abs()
    ordered = sizes.flatten().sort().values
    supports = []
    for density in DENSITIES[1:-1]:
        found = sparse("pcb", delta, density, {"compat": compat})
        bound = ordered[int(SIZE * (1 - density))]
        top = bound == ordered[-1]
        assert torch.equal(found != 0, sizes >= bound if top else sizes > bound)
        supports.append(found != 0)
    for smaller, larger in pairwise(supports):
        assert bool((larger | ~smaller).all())
