"""Every operation of transformers' conversions: what is written to the places is what the network has."""

from itertools import pairwise

import pytest
import torch
import transformers
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    ConversionOps,
    Interleave,
    MergeModulelist,
    PermuteForRope,
    Split,
    Transpose,
    WeightConverter,
)

from evomerge.resident.places import Conversion, Loading, place_tensors
from tests.architectures.kinds import TEXT

MLP, ATTENTION = "model.layers.0.mlp.", "model.layers.0.self_attn."
UP, GATE, DOWN = (f"{MLP}{name}_proj.weight" for name in ("up", "gate", "down"))
QUERY, KEY, VALUE = (f"{ATTENTION}{name}_proj.weight" for name in "qkv")

#: operations, shapes of the sources, targets, whether the sources are views.
CASES: dict[str, tuple[list[ConversionOps], list[tuple[int, ...]], list[str], bool]] = {
    "transposed": ([Transpose(0, 1)], [(48, 32)], [DOWN], True),
    "transposed where shapes differ": ([Transpose(0, 1, check_dims=True)], [(48, 32)], [DOWN], True),
    "left as it is": ([Transpose(0, 1, check_dims=True)], [(32, 48)], [DOWN], True),
    "concatenated": ([Concatenate(0)], [(20, 32), (28, 32)], [UP], True),
    "concatenated in rows": ([Concatenate(1)], [(48, 30), (48, 2)], [UP], True),
    "interleaved": ([Interleave(0)], [(48, 32)], [UP], False),
    "permuted": ([PermuteForRope()], [(32, 32)], [QUERY], False),
    "in chunks": ([Chunk(0)], [(96, 32)], [GATE, UP], False),
    "in chunks of rows": ([Chunk(1)], [(48, 64)], [GATE, UP], False),
    "split by the sizes of the targets": ([Split(0)], [(64, 32)], [QUERY, KEY, VALUE], False),
}


@pytest.fixture(scope="module")
def network() -> transformers.LlamaForCausalLM:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).requires_grad_(False)


@pytest.mark.parametrize("case", list(CASES))
def test_what_is_written_to_the_places_is_what_the_network_has(
    case: str, network: transformers.LlamaForCausalLM
) -> None:
    operations, shapes, targets, views = CASES[case]
    sources = {f"file.{number}": shape for number, shape in enumerate(shapes)}
    transform = WeightConverter(list(sources), targets, operations)
    conversion = Conversion(transform, targets[0], tuple((name, name) for name in sources), tuple(targets))
    places, staged = place_tensors(network, Loading({}, (conversion,), (), ()), sources)
    values = {name: torch.randn(shape) for name, shape in sources.items()}
    for name, value in values.items():
        places[name].copy_(value)
    for one in staged:
        one.settle()
    live = network.state_dict()
    for name, wanted in conversion(values, network).items():
        assert torch.equal(live[name], wanted)
    storages = {live[name].untyped_storage().data_ptr() for name in targets}
    assert all((place.untyped_storage().data_ptr() in storages) == views for place in places.values())


def test_stacked_experts_are_views_next_to_each_other(network: transformers.LlamaForCausalLM) -> None:
    torch.manual_seed(0)
    moe = transformers.MixtralForCausalLM(transformers.MixtralConfig(**TEXT, num_local_experts=2))
    target = "model.layers.0.mlp.experts.gate_up_proj"
    transform = WeightConverter([".*.w1", ".*.w3"], [target], [MergeModulelist(0), Concatenate(1)])
    names = [f"{n}.{w}" for w in ("w1", "w3") for n in (0, 1)]
    sources = tuple((name, f".*.{name[2:]}") for name in names)
    places, staged = place_tensors(
        moe, Loading({}, (Conversion(transform, target, sources, (target,)),), (), ()), dict.fromkeys(names, (48, 32))
    )
    assert staged == ()
    order = [places[name].storage_offset() for name in ("0.w1", "0.w3", "1.w1", "1.w3")]
    assert [b - a for a, b in pairwise(order)] == [48 * 32] * 3
