"""Paths through resident blocks: the network equals the loaded export, for every architecture that is supported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch
import transformers

from evomerge.merging.models.arrangeable import ARCHITECTURES, check_arrangeable
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe.paths import merge_along, parent_merge
from evomerge.resident.block_paths import BlockPaths
from evomerge.resident.network_state import renewed
from evomerge.resident.resident import ModelError
from search_spaces.base import Path, Step
from tests.evomerge.networks import LLAMA, tokenizer, write_network

TOKENS = torch.arange(2, 22).view(2, 10)
#: Blocks of both models, one of them twice, with scales.
MIXED = Path((Step("base", 0), Step("a", 1, 1.7), Step("a", 0), Step("a", 1, 0.6), Step("base", 2, 0.8)), "base")
#: Settings that not all of them have by default.
BIASES = {"LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True}}

Settings = dict[str, Any]


def write(folder: FilePath, architecture: str, *, dtype: torch.dtype = torch.float32, **settings: Any) -> Recipe:
    """Two models of different depths, 3 and 2."""
    kind = getattr(transformers, architecture)
    with torch.random.fork_rng():
        for seed, (name, depth) in enumerate((("base", 3), ("a", 2))):
            torch.manual_seed(seed)
            size = LLAMA | {"num_hidden_layers": depth} | BIASES.get(architecture, {}) | settings
            network = kind(kind.config_class(**size))
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            network.to(dtype).save_pretrained(folder / name)
            tokenizer().save_pretrained(folder / name)
    return Recipe(Input("base", str(folder / "base")), (Input("a", str(folder / "a")),), "passthrough")


def resident(recipe: Recipe) -> BlockPaths:
    sources = open_models(recipe, apart=True)
    check_arrangeable(sources.base, sources.inputs)
    return BlockPaths(recipe, {"base": sources.base, **sources.inputs}, sources.tokenizer, None, "cpu")


def exported(merge: Merge, folder: FilePath) -> Any:
    materialize(merge, folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    found: torch.Tensor = network(input_ids=TOKENS).logits
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_network_is_the_loaded_export(tmp_path: FilePath, architecture: str, tied: bool) -> None:
    dtype = torch.bfloat16 if tied else torch.float32
    recipe = write(tmp_path, architecture, tie_word_embeddings=tied, dtype=dtype)
    paths = resident(recipe)
    for number, path in enumerate((MIXED, Path((Step("a", 0), Step("a", 1, 1.2)), "base"))):
        merge = merge_along(recipe, path, 0)
        paths.follow(merge)
        network = paths.model.network
        other = exported(merge, tmp_path / f"out{number}")
        assert other.config.num_hidden_layers == network.config.num_hidden_layers == len(path.steps)
        assert getattr(other.config, "layer_types", None) == getattr(network.config, "layer_types", None)
        assert torch.equal(logits(network), logits(other))
        assert torch.equal(logits(network), logits(renewed(network)))
        weights = other.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in paths.model.tensors.items())
        assert len(weights) - len(paths.model.tensors) == tied


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folded_scales_are_scaled_inputs(tmp_path: FilePath, architecture: str) -> None:
    recipe = write(tmp_path, architecture, rms_norm_eps=1e-12)
    paths = resident(recipe)
    paths.follow(merge_along(recipe, MIXED, 0))
    folded = logits(paths.model.network)
    plain = Path(tuple(replace(step, scale=1.0) for step in MIXED.steps), MIXED.ends)
    paths.follow(merge_along(recipe, plain, 0))
    assert (logits(paths.model.network) - folded).abs().max() > 0.01
    for block, step in zip(paths.model.network.model.layers, MIXED.steps, strict=True):
        block.register_forward_pre_hook(lambda _, args, scale=step.scale: (args[0] * scale, *args[1:]))
    torch.testing.assert_close(logits(paths.model.network), folded, rtol=1e-5, atol=1e-5)


def test_repeated_blocks_share_weights_and_have_cache_slots_of_their_own(tmp_path: FilePath) -> None:
    recipe = write(tmp_path, "LlamaForCausalLM")
    paths = resident(recipe)
    paths.follow(merge_along(recipe, MIXED, 0))
    network = paths.model.network
    first, again = network.model.layers[1], network.model.layers[3]
    assert first.mlp.up_proj.weight is again.mlp.up_proj.weight
    assert first.mlp.down_proj.weight is not again.mlp.down_proj.weight
    assert [block.self_attn.layer_idx for block in network.model.layers] == [0, 1, 2, 3, 4]
    settings: Settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with_cache, without = (network.generate(TOKENS, **settings, use_cache=cache) for cache in (True, False))
    assert torch.equal(with_cache, without)
    cache = network(input_ids=TOKENS, use_cache=True).past_key_values
    assert len(cache.layers) == 5
    assert {layer.keys.shape[-2] for layer in cache.layers} == {10}


def test_a_path_does_not_depend_on_the_one_before(tmp_path: FilePath) -> None:
    recipe = write(tmp_path, "Qwen2ForCausalLM")
    paths = resident(recipe)
    mixed, base, a = (
        merge_along(recipe, MIXED, 0),
        parent_merge(recipe, "base", 3, 0),
        parent_merge(recipe, "a", 2, 0),
    )
    found = []
    for merge in (base, mixed, a, mixed, base, a):
        paths.follow(merge)
        found.append(logits(paths.model.network))
    assert torch.equal(found[0], found[4])
    assert torch.equal(found[1], found[3])
    assert torch.equal(found[2], found[5])
    for name, of_parent in (("base", found[0]), ("a", found[2])):
        folder = tmp_path / name
        assert torch.equal(of_parent, logits(transformers.AutoModelForCausalLM.from_pretrained(folder).eval()))


def test_weights_that_a_pass_has_changed_are_written_again(tmp_path: FilePath) -> None:
    recipe = write(tmp_path, "LlamaForCausalLM")
    paths = resident(recipe)
    merge = merge_along(recipe, MIXED, 0)
    paths.follow(merge)
    before = logits(paths.model.network)
    with torch.no_grad():
        paths.model.network.model.layers[2].mlp.up_proj.weight.zero_()
    assert not torch.equal(before, logits(paths.model.network))
    paths.forget()
    paths.follow(merge)
    assert torch.equal(before, logits(paths.model.network))


def test_blocks_are_rounded_as_in_the_export(tmp_path: FilePath) -> None:
    recipe = replace(write(tmp_path, "LlamaForCausalLM"), dtype="bfloat16")
    sources = open_models(recipe, apart=True)
    models = {"base": sources.base, **sources.inputs}
    merge = merge_along(recipe, MIXED, 0)
    for compute in (None, torch.float32):
        paths = BlockPaths(recipe, models, sources.tokenizer, torch.bfloat16, "cpu", compute=compute)
        paths.follow(merge)
        other = exported(merge, tmp_path / f"out-{compute}").to(compute or torch.bfloat16)
        weights = other.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in paths.model.tensors.items())


def test_paths_of_other_models_are_refused(tmp_path: FilePath) -> None:
    recipe = write(tmp_path, "LlamaForCausalLM")
    merge = merge_along(replace(recipe, inputs=(Input("a", str(tmp_path / "b")),)), MIXED, 0)
    with pytest.raises(ModelError, match="not among"):
        resident(recipe).follow(merge)


def other_rope(config: Settings) -> Settings:
    return {**config, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


def mixed_kinds(config: Settings) -> Settings:
    return {**config, "layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 4}


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("LlamaForCausalLM", other_rope, "computes differently from the base: .*rope_theta"),
        ("Qwen2ForCausalLM", mixed_kinds, "blocks of 2 kinds"),
    ],
)
def test_models_whose_blocks_compute_differently_are_refused(
    tmp_path: FilePath, architecture: str, change: Callable[[Settings], Settings], message: str
) -> None:
    recipe = write(tmp_path, architecture)
    sources = open_models(recipe, apart=True)
    sources.base.config = change(dict(sources.base.config or {}))
    with pytest.raises(CheckpointError, match=message):
        check_arrangeable(sources.base, sources.inputs)


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "mamba", "llama_headless"])
def test_other_architectures_are_refused_by_name(tmp_path: FilePath, kind: str) -> None:
    written = write_network(tmp_path, kind, 1)
    recipe = Recipe(Input("base", str(written["base"])), (Input("a", str(written["a"])),), "passthrough")
    sources = open_models(recipe, apart=True)
    name = str((sources.base.config or {})["architectures"][0])
    with pytest.raises(CheckpointError, match=f"{name}.*LlamaForCausalLM"):
        check_arrangeable(sources.base, sources.inputs)


def test_blocks_of_another_size_are_refused(tmp_path: FilePath) -> None:
    recipe = write(tmp_path, "LlamaForCausalLM")
    write(tmp_path / "wide", "LlamaForCausalLM", intermediate_size=40)
    wide = replace(recipe, inputs=(Input("a", str(tmp_path / "wide" / "a")),))
    with pytest.raises(CheckpointError, match="blocks of other sizes"):
        open_models(wide, apart=True)
