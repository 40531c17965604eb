"""Name patterns against the parameter names of real architectures, randomly initialised."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors import safe_open

from search_spaces.base import Layout, SpaceError

N_BLOCKS = 11  # two digits: the checkpoint order of names is not the numeric one
COMMON = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 2,
    "vocab_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = COMMON | {"num_key_value_heads": 1, "head_dim": 4}
GPT2 = {"n_embd": 8, "n_layer": N_BLOCKS, "n_head": 2, "vocab_size": 16, "bos_token_id": 1, "eos_token_id": 2}
VIT = COMMON | {"image_size": 4, "patch_size": 2}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": N_BLOCKS, "num_heads": 2, "vocab_size": 16}

#: model -> its class, configuration class, configuration; what is there of each component
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", GROUPED),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", GROUPED),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 2}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", COMMON),
    "bert": ("BertForSequenceClassification", "BertConfig", COMMON),
    "bert_lm": ("BertForMaskedLM", "BertConfig", COMMON),
    "vit": ("ViTForImageClassification", "ViTConfig", VIT),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
}

#: Final norms; BERT normalises inside of its blocks and embeddings only.
FINAL_NORMS = {
    "gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias"},
    "gpt_neox": {"gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias"},
    "bert": set(),
    "bert_lm": set(),
    "vit": {"vit.layernorm.weight", "vit.layernorm.bias"},
    "t5": {"encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight"},
}

#: Names where a careless pattern goes wrong, with their depth and component.
TRICKY = {
    "llama": {"model.layers.10.post_attention_layernorm.weight": (10, "norm")},
    "qwen3": {"model.layers.2.self_attn.q_norm.weight": (2, "norm")},
    "gemma3": {"model.layers.2.pre_feedforward_layernorm.weight": (2, "norm")},
    "mixtral": {"model.layers.2.mlp.gate.weight": (2, "mlp")},
    "gpt2": {
        "transformer.h.10.attn.c_proj.weight": (10, "attention"),
        "transformer.h.10.mlp.c_proj.weight": (10, "mlp"),
        "transformer.wpe.weight": (None, "embedding"),
    },
    "gpt_neox": {"gpt_neox.layers.10.attention.dense.weight": (10, "attention")},
    "bert": {
        "bert.encoder.layer.10.attention.output.LayerNorm.weight": (10, "norm"),
        "bert.encoder.layer.10.attention.output.dense.weight": (10, "attention"),
        "bert.encoder.layer.10.output.dense.weight": (10, "mlp"),
        "bert.encoder.layer.10.intermediate.dense.bias": (10, "mlp"),
        "bert.embeddings.LayerNorm.weight": (None, "embedding"),
        "bert.pooler.dense.weight": (None, "head"),
        "classifier.weight": (None, "head"),
    },
    "bert_lm": {"cls.predictions.transform.LayerNorm.weight": (None, "head")},
    "vit": {"vit.embeddings.cls_token": (None, "embedding"), "classifier.bias": (None, "head")},
    "t5": {
        "encoder.block.10.layer.1.DenseReluDense.wi.weight": (10, "mlp"),
        "decoder.block.0.layer.1.EncDecAttention.q.weight": (11, "attention"),
        "decoder.block.10.layer.2.layer_norm.weight": (21, "norm"),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (0, "attention"),
        "shared.weight": (None, "embedding"),
    },
}


@pytest.fixture(scope="module")
def build() -> Callable[[str], Any]:
    def one(name: str) -> Any:
        model, config, options = MODELS[name]
        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return one


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_a_real_model_finds_its_place(name: str, build: Callable[[str], Any]) -> None:
    layout = Layout.from_names(sorted(build(name).state_dict()))
    place = dict(zip(layout.names, zip(layout.blocks, layout.components, strict=True), strict=True))
    assert layout.n_blocks == N_BLOCKS * (2 if name == "t5" else 1)
    assert "other" not in layout.components
    for block in range(layout.n_blocks):
        inside = {component for b, component in place.values() if b == block}
        assert inside == {"attention", "mlp", "norm"}
    outside = {component for b, component in place.values() if b is None}
    assert outside >= {"embedding", "head"}
    final = {n for n, where in place.items() if where == (None, "norm")}
    assert final == FINAL_NORMS.get(name, {"model.norm.weight"})
    assert {n: place[n] for n in TRICKY.get(name, {})} == TRICKY.get(name, {})


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_saved_names_are_placed_like_the_names_in_memory(
    name: str, build: Callable[[str], Any], tmp_path: Path
) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        saved = Layout.from_names(list(file.keys()))
    memory = Layout.from_names(list(model.state_dict()))
    place = dict(zip(memory.names, zip(memory.blocks, memory.components, strict=True), strict=True))
    assert len(saved.names) > 50
    for tensor, block, component in zip(saved.names, saved.blocks, saved.components, strict=True):
        assert place[tensor] == (block, component)


def test_depth_is_numeric_whatever_the_order_of_names() -> None:
    names = sorted(f"model.layers.{n}.mlp.up.weight" for n in range(40))
    assert names[2].startswith("model.layers.10.")
    layout = Layout.from_names(names)
    assert [f"model.layers.{block}.mlp.up.weight" for block in layout.blocks] == names


def test_blocks_that_are_numbered_with_gaps_have_depths_without() -> None:
    assert Layout.from_names(["h.7.a", "h.2.a", "h.30.a"]).blocks == (1, 0, 2)


def test_stacks_follow_each_other_encoder_before_decoder() -> None:
    names = ["decoder.layers.0.a", "encoder.layers.1.a", "encoder.layers.0.a", "decoder.layers.1.a"]
    assert Layout.from_names(names).blocks == (2, 1, 0, 3)
    names = ["model.language_model.layers.0.a", "model.vision_tower.encoder.layers.0.a"]
    assert Layout.from_names(names).blocks == (1, 0)


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("transformer.visual.resblocks.3.ln_1.weight", "norm"),
        ("model.decoder.layers.3.fc1.weight", "mlp"),
        ("backbone.layers.3.mixer.in_proj.weight", "other"),
        ("blocks.3.ffn.key.weight", "mlp"),
        ("layers.3.attention_norm.weight", "norm"),
    ],
)
def test_other_families_by_pattern(name: str, component: str) -> None:
    layout = Layout.from_names([name])
    assert layout.components == (component,)
    assert layout.blocks == (0,)


def test_plain_dictionaries_are_other() -> None:
    layout = Layout.from_names(["kernel", "layer1.weight", "h.weight"])
    assert layout.components == ("other",) * 3
    assert layout.blocks == (None, None, None)
    assert Layout.from_names([]).n_blocks == 0


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"'a\.b' appears twice"):
        Layout.from_names(["a.b", "c", "a.b"])
