"""Model folders for these tests, as transformers and safetensors write them, and files that are none."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

SMALL = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def llama(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, shard: str = "5GB", **changes: Any) -> Path:
    config = transformers.LlamaConfig(**{**SMALL, **HEADS, **changes})
    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def tokenizer(folder: Path, words: str = "abc", **settings: Any) -> Path:
    vocabulary = {word: number for number, word in enumerate(["<eos>", *words])}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": 0, "content": "<eos>", "special": True, **flags}]
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<eos>"}
    body = {"version": "1.0", "added_tokens": added, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(body))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", **settings}))
    return folder


def bare(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def container(header: Any, data: bytes = b"") -> bytes:
    """The bytes of a .safetensors file with this header, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def cached(cache: Path, name: str, made: Path) -> str:
    """Move a model folder into a Hugging Face cache, as a download lays it out; returns its commit."""
    repository, commit = cache / f"models--{name.replace('/', '--')}", "4d7a" * 10
    snapshot = repository / "snapshots" / commit
    for place in (snapshot, repository / "refs", repository / "blobs"):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in made.iterdir():
        file.rename(repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return commit
