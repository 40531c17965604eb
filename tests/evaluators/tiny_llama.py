"""A tiny random Llama with a character tokenizer, as an ordinary folder and as a LanguageModel."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHARACTERS = "\n !#%'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
#: Large weights, so that a random model has opinions.
LOUD = {"initializer_range": 0.5}


@dataclass(frozen=True)
class TinyModel:
    """A LanguageModel whose folder is known."""

    network: Any
    tokenizer: Any
    folder: Path
    coefficients: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> Mapping[str, Any]:
        return dict(self.network.state_dict())


def character_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def build(
    folder: Path, seed: int, config_class: Any = LlamaConfig, model_class: Any = LlamaForCausalLM, **own: Any
) -> TinyModel:
    """A random model of the given architecture, saved into `folder` and loaded again."""
    tokenizer = character_tokenizer()
    tokenizer.chat_template = CHAT
    config = config_class(
        vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **(own or {**LLAMA, **LOUD})
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = model_class(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    return TinyModel(loaded, AutoTokenizer.from_pretrained(folder), folder)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
