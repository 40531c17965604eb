"""Whatever is said to be interchangeable is interchanged in real models, whose outputs have to stay as they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.prepare.alignment.rebasin import reorder
from evomerge.prepare.alignment.symmetries import AlignError, Units, find_units
from tests.evomerge.merging.folders import bare

LLAMA = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
#: Architecture -> its settings, the kinds of units of one block, and how many units they have.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "llama": ("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}, {"hidden": 20, "heads": 2, "group": 2}),
    "one head per group": ("Llama", {**LLAMA, "num_key_value_heads": 4}, {"hidden": 20, "heads": 4}),
    "one group": ("Llama", {**LLAMA, "num_key_value_heads": 1}, {"hidden": 20, "group": 4}),
    "tied": ("Llama", {**LLAMA, "tie_word_embeddings": True}, {"hidden": 20, "heads": 2, "group": 2}),
    "a norm for each head": ("Qwen3", {**LLAMA, "head_dim": 8}, {"hidden": 20, "heads": 2, "group": 2}),
    "a norm for all heads": ("Olmo2", LLAMA, {"hidden": 20, "heads": 2, "group": 2}),
    "fused": ("Phi3", LLAMA, {"hidden": 20, "heads": 2, "group": 2}),
    "experts": ("Mixtral", {**LLAMA, "num_local_experts": 2}, {"hidden": 20, "heads": 2, "group": 2}),
    "gpt2": ("GPT2", {"vocab_size": 24, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 9, "n_inner": 20,
                      "bos_token_id": 0, "eos_token_id": 1}, {"hidden": 20, "heads": 4}),
    "opt": ("OPT", {**LLAMA, "num_key_value_heads": None, "ffn_dim": 20, "max_position_embeddings": 9,
                    "word_embed_proj_dim": 16}, {"hidden": 20, "heads": 4}),
}  # fmt: skip


def random_model(kind: str, settings: dict[str, Any], folder: Path, seed: int = 0) -> Path:
    """A model whose vectors (norms, biases) differ from unit to unit as its matrices do."""
    config = getattr(transformers, f"{kind}Config")(**settings)
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, name)(config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random) + (parameter.dim() == 1))
    model.save_pretrained(folder)
    return folder


def units_of(model: Checkpoint, *, residual: bool = False) -> tuple[Units, ...]:
    shapes = {name: model.shape(name) for name in model.names if model.mergeable(name)}
    return find_units(shapes, model.config, residual=residual)


def logits(folder: Path) -> Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found: Tensor = model(torch.tensor([[3, 9, 4, 4, 20, 7, 0, 11]])).logits
    return found


def same(one: Tensor, other: Tensor) -> bool:
    """Up to rounding: transformers computes norms in float32 whatever the model's type."""
    return bool((one - other).abs().max() < 3e-5 * other.abs().max())


def shuffled(model: Checkpoint, units: tuple[Units, ...], folder: Path, seed: int = 0) -> Path:
    tensors = {name: model.tensor(name).clone() for name in model.names}
    random = np.random.default_rng(seed)
    for one in units:
        order = random.permutation(one.count).tolist()
        for place in one.places:
            reorder(tensors[place.tensor], place, order)
    return bare(folder, tensors, dict(model.config or {}))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_any_order_gives_the_same_outputs(tmp_path: Path, name: str, residual: bool) -> None:
    kind, settings, _ = MODELS[name]
    model = Checkpoint.open(random_model(kind, settings, tmp_path / "model"))
    expected = logits(tmp_path / "model")
    for one in units_of(model, residual=residual)[-1:] if residual else units_of(model):
        other = shuffled(model, (one,), tmp_path / one.name, seed=4)
        assert same(logits(other), expected), one
        broken = replace(one, places=one.places[:-1])
        assert not same(logits(shuffled(model, (broken,), tmp_path / f"{one.name}, broken", seed=4)), expected), one
    assert same(logits(shuffled(model, units_of(model, residual=residual), tmp_path / "all")), expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_units_of_a_block(tmp_path: Path, name: str) -> None:
    kind, settings, expected = MODELS[name]
    units = units_of(Checkpoint.open(random_model(kind, settings, tmp_path / "model")), residual=True)
    found: dict[str, set[int]] = {}
    for one in units:
        ending = one.name.split(": ")[-1]
        word = "group" if "group" in ending else ending.split()[0]
        found.setdefault(word, set()).add(one.count)
    assert found == {**{word: {count} for word, count in expected.items()}, "residual": {16}}
    per_block = {"heads": 1, "hidden": settings.get("num_local_experts", 1)}
    for word, count in per_block.items():
        names = [one.name for one in units if one.name.split(": ")[-1].split()[0] == word and "group" not in one.name]
        assert len(names) == (2 * count if word in expected else 0), names


def shapes_of(**changes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    prefix = "model.layers.0.self_attn"
    made: dict[str, tuple[int, ...]] = {f"{prefix}.{x}_proj.weight": (16, 16) for x in "qkvo"}
    return {**made, **{f"{prefix}.{name.replace('__', '.')}": shape for name, shape in changes.items()}}


@pytest.mark.parametrize(
    "changes",
    [
        {"sinks": (4,)},
        {"q_norm__weight": (8,)},
        {"k_proj__weight": (12, 16)},
        {"v_proj__bias": (8,)},
        {"o_proj__weight": (16,)},
    ],
)
def test_attention_that_is_not_known_stays(changes: dict[str, tuple[int, ...]]) -> None:
    config = {"num_attention_heads": 4}
    assert len(find_units(shapes_of(), config)) == 1
    with pytest.raises(AlignError, match="Found no hidden units to match"):
        find_units(shapes_of(**changes), config)


def test_an_mlp_with_something_unknown_along_its_units_stays() -> None:
    known = {"l.0.mlp.up_proj.weight": (20, 16), "l.0.mlp.gate_proj.weight": (20, 16)}
    known["l.0.mlp.down_proj.weight"] = (16, 20)
    assert [one.count for one in find_units(known, None)] == [20]
    with pytest.raises(AlignError):
        find_units({**known, "l.0.mlp.act.slope": (20,)}, None)
    with pytest.raises(AlignError):
        find_units({**known, "l.0.mlp.up_proj.weight": (40, 16)}, None)


def test_layers_that_may_store_weights_either_way_need_the_configuration() -> None:
    shapes = {"h.0.mlp.c_fc.weight": (16, 16), "h.0.mlp.c_proj.weight": (16, 16)}
    places = {}
    for kind in ("gpt2", "gpt_bigcode"):
        (units,) = find_units(shapes, {"model_type": kind})
        places[kind] = [place.axis for place in units.places]
    assert places == {"gpt2": [1, 0], "gpt_bigcode": [0, 1]}
    with pytest.raises(AlignError):
        find_units(shapes, None)
    fused = {"h.0.attn.c_attn.weight": (48, 16), "h.0.attn.c_proj.weight": (16, 16)}
    with pytest.raises(AlignError):
        find_units(fused, {"model_type": "gpt_bigcode", "n_head": 4})


def test_a_residual_stream_with_something_unknown_stays(tmp_path: Path) -> None:
    kind, settings, _ = MODELS["llama"]
    model = Checkpoint.open(random_model(kind, settings, tmp_path / "model"))
    shapes = {name: model.shape(name) for name in model.names}
    with pytest.raises(AlignError, match=r"the role of adapter\.up\.weight \(16, 4\) in it is unknown"):
        find_units({**shapes, "adapter.up.weight": (16, 4)}, model.config, residual=True)
    with pytest.raises(AlignError, match=r"this model's embeddings have \[8, 16\]"):
        find_units({**shapes, "model.wpe.weight": (9, 8)}, model.config, residual=True)
    assert find_units({**shapes, "adapter.up.weight": (16, 4)}, model.config)


def test_chains_of_linear_layers() -> None:
    shapes = {
        "0.weight": (5, 3),
        "0.bias": (5,),
        "1.weight": (5,),
        "10.weight": (2, 5),
        "2.weight": (5, 5),
        "2.bias": (5,),
    }
    first, second = find_units(shapes, None)
    assert [(p.tensor, p.axis) for p in first.places] == [
        ("0.weight", 0),
        ("0.bias", 0),
        ("1.weight", 0),
        ("2.weight", 1),
    ]
    assert [(p.tensor, p.axis) for p in second.places] == [("2.weight", 0), ("2.bias", 0), ("10.weight", 1)]
    with pytest.raises(AlignError, match=r"2 has 5 outputs, 10\.weight is \(2, 4\)"):
        find_units({**shapes, "10.weight": (2, 4)}, None)
    for unclear in ({"norm.weight": (5,)}, {"3.weight": (2, 5, 1)}):
        with pytest.raises(AlignError, match=r"the first tensor is '0\.weight'"):
            find_units({**shapes, **unclear}, None)
