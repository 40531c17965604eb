"""The tiny models of the conformance corpus: real transformers folders with real tokenizers, the same every time.

One Llama with fine-tunes (small deltas with exact zeros, tensors that nobody touched), relatives with another
vocabulary, another order of it, another depth or type or no relation, LoRA adapters, a tied Qwen2 with biases,
a GPT-2 and an OLMo.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]

WORDS = tuple(f"w{number}" for number in range(97))
SPECIAL = ("<unk>", "<s>", "</s>")
MARK = "<|im_start|>"
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
#: A tensor that no fine-tune changed, and one that only `math` left alone.
UNTOUCHED = "model.layers.3.input_layernorm.weight"
UNTOUCHED_IN_MATH = "model.layers.1.mlp.up_proj.weight"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(folder: Path) -> dict[str, str]:
    """Write every model anew below `folder`; returns name -> path, what `{name}` in a YAML file stands for."""
    shutil.rmtree(folder, ignore_errors=True)
    base = _random(_llama(4, 100), seed=0)
    shared = _delta(base, seed=1)
    _save(folder / "base", _llama(4, 100), base, tokenizer(SPECIAL + WORDS))
    for seed, name in enumerate(("math", "code", "chat"), start=2):
        tokens = tokenizer(SPECIAL + WORDS)
        tokens.chat_template = TEMPLATE if name == "chat" else None
        tuned = _tuned(base, shared, seed)
        if name == "math":
            tuned[UNTOUCHED_IN_MATH] = base[UNTOUCHED_IN_MATH].clone()
        _save(folder / name, _llama(4, 100), tuned, tokens, shard="40KB" if name == "code" else "5GB")
        if name in ("math", "code"):
            half = {key: value.bfloat16() for key, value in tuned.items()}
            _save(folder / f"half_{name}", _llama(4, 100), half, tokens)
    _save(folder / "half_base", _llama(4, 100), {k: v.bfloat16() for k, v in base.items()}, tokenizer(SPECIAL + WORDS))
    for seed, (name, layers) in enumerate({"stranger": 4, "deep": 6}.items(), start=6):
        config = _llama(layers, 100)
        _save(folder / name, config, _random(config, seed), tokenizer(SPECIAL + WORDS))
    _other_vocabularies(folder, base, shared)
    _adapters(folder)
    _qwen(folder)
    _relatives(folder, base, shared)
    _other_architectures(folder)
    return {path.name: str(path) for path in sorted(folder.iterdir())}


def tokenizer(words: Sequence[str], added: Sequence[str] = ()) -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer whose ids are the places in `words`, then in `added` (special tokens)."""
    vocabulary = {word: number for number, word in enumerate(words)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    outer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    if added:
        outer.add_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in added])
    return outer


def _other_vocabularies(folder: Path, base: Weights, shared: Weights) -> None:
    """wide: two more tokens. shuffled: the same tokens in another order. foreign: lacks some, has others.

    padded: more rows than its tokenizer has tokens.
    """
    everything = SPECIAL + WORDS

    def relative(name: str, seed: int, words: Sequence[str], added: Sequence[str] = (), surplus: int = 0) -> None:
        tokens = [*words, *added]
        rows = len(tokens) + surplus
        new = _random(_llama(4, rows), seed + 100)

        def by_token(key: str, tuned: Tensor) -> Tensor:
            if not key.startswith(("model.embed_tokens", "lm_head")):
                return tuned
            matrix = new[key].clone()
            for place, token in enumerate(tokens):
                if token in everything:
                    matrix[place] = tuned[everything.index(token)]
            return matrix

        weights = {key: by_token(key, value) for key, value in _tuned(base, shared, seed).items()}
        _save(folder / name, _llama(4, rows), weights, tokenizer(words, added))

    order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(9)).tolist()
    relative("wide", 11, (*everything, "extra"), (MARK,))
    relative("shuffled", 12, (*SPECIAL, *(WORDS[place] for place in order)))
    relative("foreign", 13, (*SPECIAL, *WORDS[20:], "new0", "extra"), (MARK,))
    relative("padded", 14, everything, surplus=4)


def _relatives(folder: Path, base: Weights, shared: Weights) -> None:
    """tied: a fine-tune without a head of its own. older: one whose files hold a buffer that is computed today."""
    tied = {name: value for name, value in _tuned(base, shared, 41).items() if name != "lm_head.weight"}
    config = _llama(4, 100)
    config.tie_word_embeddings = True
    _save(folder / "tied", config, tied, tokenizer(SPECIAL + WORDS))
    _save(folder / "older", _llama(4, 100), _tuned(base, shared, 42), tokenizer(SPECIAL + WORDS))
    path = folder / "older" / "model.safetensors"
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(4)}
    save_file({**load_file(path), **buffers}, path, metadata={"format": "pt"})


def _other_architectures(folder: Path) -> None:
    """A GPT-2, whose tensors have other names and places, and an OLMo, which mergekit does not know."""
    sizes = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}
    small = {key: value for key, value in SIZES.items() if not key.endswith("token_id")}
    configs = {
        "gpt2": transformers.GPT2Config(n_embd=32, n_head=2, n_layer=4, n_positions=64, **sizes),
        "olmo": transformers.OlmoConfig(num_hidden_layers=4, **small, **sizes),
    }
    for seed, (kind, config) in enumerate(configs.items()):
        base = _random(config, seed=50 + seed)
        shared = _delta(base, seed=60 + seed)
        _save(folder / f"{kind}_base", config, base, tokenizer(SPECIAL + WORDS))
        for number, name in enumerate(("math", "code")):
            tuned = _tuned(base, shared, 70 + 10 * seed + number)
            _save(folder / f"{kind}_{name}", config, tuned, tokenizer(SPECIAL + WORDS))


def _adapters(folder: Path) -> None:
    """LoRA adapters on the base, of every kind that can be folded into weights."""
    attention = ["q_proj", "v_proj", "down_proj"]
    stabilised = {"lora_alpha": 6, "use_rslora": True, "rank_pattern": {"o_proj": 2}}
    settings: dict[str, dict[str, Any]] = {
        "adapter": {"lora_alpha": 8, "target_modules": attention},
        "adapter_b": {"lora_alpha": 6, "target_modules": attention},
        "adapter_c": {"lora_alpha": 4, "target_modules": attention},
        "adapter_rs": {**stabilised, "target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj"]},
        "adapter_dora": {"lora_alpha": 8, "use_dora": True, "target_modules": ["q_proj", "up_proj"]},
        "adapter_head": {"lora_alpha": 8, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        "adapter_tokens": {"lora_alpha": 8, "target_modules": ["embed_tokens", "lm_head", "k_proj"]},
    }
    for seed, (name, changes) in enumerate(settings.items(), start=21):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        tuned = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **changes))
        generator = torch.Generator().manual_seed(seed)
        for key, value in tuned.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                start = value.data if "lora_" not in key or "magnitude" in key else 0.0
                value.data.copy_(start + torch.randn(value.shape, generator=generator) * 0.1)
        tuned.save_pretrained(folder / name)


def _qwen(folder: Path) -> None:
    """A Qwen2 with tied embeddings and biases, two fine-tunes, and a BPE tokenizer."""

    def config() -> transformers.PretrainedConfig:
        return transformers.Qwen2Config(vocab_size=64, num_hidden_layers=4, tie_word_embeddings=True, **SIZES)

    letters = [chr(code) for code in range(97, 123)]
    pairs = [(letters[place], letters[(3 * place + 1) % 26]) for place in range(26)]
    # transformers adds this token to every Qwen2 tokenizer that lacks it.
    pieces = [*SPECIAL, "<|endoftext|>", *letters, *(first + second for first, second in pairs)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs, unk_token="<unk>"))
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<|endoftext|>"
    )
    base = _random(config(), seed=30)
    shared = _delta(base, seed=31)
    _save(folder / "qwen_base", config(), base, tokens)
    for seed, name in ((32, "qwen_math"), (33, "qwen_code")):
        _save(folder / name, config(), _tuned(base, shared, seed), tokens)


def _llama(layers: int, rows: int) -> transformers.PretrainedConfig:
    return transformers.LlamaConfig(vocab_size=rows, num_hidden_layers=layers, **SIZES)


def _random(config: transformers.PretrainedConfig, seed: int) -> Weights:
    """Weights of this architecture: norms around one, the rest around zero."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    return {
        name: torch.randn(value.shape, generator=generator) * 0.05 + (1.0 if "norm" in name else 0.0)
        for name, value in model.state_dict().items()
        if name not in tied
    }


def _delta(weights: Mapping[str, Tensor], seed: int) -> Weights:
    """Small changes, a fifth of them exactly zero."""
    generator = torch.Generator().manual_seed(seed)

    def changes(like: Tensor) -> Tensor:
        kept = torch.rand(like.shape, generator=generator) >= 0.2
        return torch.randn(like.shape, generator=generator) * 0.01 * kept

    return _each(weights, lambda _, value: changes(value))


def _tuned(base: Weights, shared: Weights, seed: int) -> Weights:
    """A fine-tune: what all of them learnt, and something of its own; exact zeros where both have them."""
    own = _delta(base, seed)
    still = torch.Generator().manual_seed(seed + 1000)

    def tuned(name: str, value: Tensor) -> Tensor:
        if name == UNTOUCHED:
            return value.clone()
        moved = torch.rand(value.shape, generator=still) >= 0.1
        return value + (0.5 * shared[name] + own[name]) * moved

    return _each(base, tuned)


def _each(weights: Mapping[str, Tensor], function: Callable[[str, Tensor], Tensor]) -> Weights:
    return {name: function(name, value) for name, value in weights.items()}


def _save(
    folder: Path,
    config: transformers.PretrainedConfig,
    weights: Weights,
    tokens: transformers.PreTrainedTokenizerFast,
    shard: str = "5GB",
) -> None:
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=not config.tie_word_embeddings)
    model.save_pretrained(folder, max_shard_size=shard)
    tokens.save_pretrained(folder)
