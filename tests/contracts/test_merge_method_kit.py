"""The kit must fail for methods that are broken; each of these is, in one way."""

from collections.abc import Sequence
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from evomerge.merging.kernels.sparsify import drop_at_random
from evomerge.merging.method import Bounds, MergeMethod, PerInput, merge_method
from evomerge.merging.tiles import Tile
from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.contracts.other_process import OtherProcess

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
REFERENCE = "https://example.org"


def _sum(deltas: Sequence[Tensor], weight: Sequence[float]) -> Tensor:
    return torch.stack([delta * w for delta, w in zip(deltas, weight, strict=True)]).sum(0)


def broken(**given: Any) -> Any:
    return merge_method(**{"operates_on": "deltas", "reference": REFERENCE, **given})


@broken(reference="a paper")
def without_reference(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """No address."""
    return _sum(deltas, weight)


@broken()
def forgets_the_last(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """Leaves an input out."""
    return _sum(deltas[:-1], weight[:-1])


@broken()
def by_place(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """The first input counts twice."""
    return _sum(deltas, weight) + deltas[0] * weight[0]


@broken(linear_in=("weight",))
def squares(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """Not linear, not equivariant to scale."""
    return _sum(deltas, weight).square()


@broken()
def of_the_tile(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """Depends on where tiles begin and end."""
    merged = _sum(deltas, weight)
    return merged + merged.mean()


@broken()
def global_noise(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """Draws from the global generator."""
    return _sum(deltas, weight) * torch.rand(1)


@broken()
def by_hash(deltas: Sequence[Tensor], *, weight: Weight, tile: Tile) -> Tensor:
    """Depends on PYTHONHASHSEED."""
    return _sum(deltas, weight) * (1 + hash(tile.tensor) % 1000 / 1000)


@broken(random=True)
def ignores_the_seed(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """Says that it is random, and is not."""
    return _sum(deltas, weight)


@broken(linear_in=("weight",))
def rounds_twice(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """Works in bfloat16."""
    return sum((d.bfloat16() * w for d, w in zip(deltas, weight, strict=True)), torch.zeros(1)).float()


@broken(random=True)
def thins_without_rescaling(deltas: Sequence[Tensor], *, weight: Weight, tile: Tile) -> Tensor:
    """Too small on average."""
    return _sum([drop_at_random(delta, tile, index, 0.9) for index, delta in enumerate(deltas)], weight)


@broken(operates_on="weights")
def grows(weights: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """A sum that is declared to be an average."""
    return _sum(weights, weight)


@broken()
def fails_when_empty(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
    """Gives NaN for a single element."""
    merged = _sum(deltas, weight)
    return merged / (merged - merged.mean()).sign().abs().sum() if len(merged) == 1 else merged


def kit(method: MergeMethod, **flags: Any) -> MergeMethodContract:
    attributes = {"name": f"{__name__}:{method.name}", "values": fixed({"weight": [0.25, 0.5, 0.75]}), **flags}
    built: MergeMethodContract = type("Kit", (MergeMethodContract,), attributes)()
    return built


@pytest.mark.parametrize(
    ("method", "test", "flags"),
    [
        (without_reference, "test_declares_itself", {}),
        (forgets_the_last, "test_p1_one_hot_gives_that_input", {}),
        (grows, "test_p2_identical_experts_come_back", {"averages": True}),
        (grows, "test_p3_tensors_nobody_changed_stay_bit_for_bit", {}),
        (by_place, "test_p4_order_of_the_inputs", {}),
        (squares, "test_p5_scale", {}),
        (grows, "test_p6_translation", {}),
        (grows, "test_p9_hull", {"hull": True}),
        (squares, "test_p10_linear", {}),
        (thins_without_rescaling, "test_p11_unbiased", {"unbiased": True}),
        (squares, "test_p14_rotation", {"rotates": True}),
        (global_noise, "test_p8_the_seed_matters_to_random_methods_only", {}),
        (ignores_the_seed, "test_p8_the_seed_matters_to_random_methods_only", {}),
        (global_noise, "test_p7_resident_and_streamed_are_the_same", {}),
        (rounds_twice, "test_p10_linear", {}),
        (fails_when_empty, "test_tensors_of_any_size", {}),
    ],
    ids=lambda value: getattr(value, "name", value) if not isinstance(value, dict) else "",
)
def test_broken_methods_fail(method: MergeMethod, test: str, flags: dict[str, Any]) -> None:
    contract = kit(method, **flags)
    with pytest.raises((AssertionError, ValueError)):
        getattr(contract, test)()


def test_a_method_that_depends_on_tiles_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        kit(of_the_tile).test_p7_tiles_threads_and_other_tensors_do_not_matter(monkeypatch)


class TestByHash(MergeMethodContract):
    name = f"{__name__}:by_hash"
    values = fixed({"weight": [0.25, 0.5, 0.75]})
    __test__ = False


def test_a_method_that_depends_on_the_hash_seed_fails(other_process: OtherProcess) -> None:
    with pytest.raises(AssertionError):
        TestByHash().test_p7_another_process_and_hash_seed(other_process)
