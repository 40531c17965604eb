"""Two model folders compared: every tensor, and what else a merge decides on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

#: Of a tensor's largest magnitude: float32 arithmetic in another order.
ROUNDING = 1e-6
#: Of an element, beside that: one unit in the last place, on which two results that agree may come down on either side.
UNIT = {torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
WITH_TOKENS = ("model.embed_tokens.weight", "lm_head.weight")
#: Entries of config.json that a merge decides on.
DECIDED = ("num_hidden_layers", "vocab_size", "dtype", "tie_word_embeddings")


@dataclass(frozen=True)
class Difference:
    """What was compared of two folders, and what is not the same.

    relative: of the worst tensor. share: of all elements, those beyond the limit. faults: of tensors, where
    their values differ; of anything else.
    """

    n_tensors: int = 0
    relative: float = 0.0
    share: float = 0.0
    values: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def compared(ours: Path, theirs: Path) -> Difference:
    """Every tensor and the decided entries of the configuration, tokenizer and chat template of two folders."""
    mine, other = tensors(ours), tensors(theirs)
    faults = [f"{name} is missing here" for name in sorted(other.keys() - mine.keys())]
    faults += [f"{name} is missing there" for name in sorted(mine.keys() - other.keys())]
    rows = _matching_rows(ours, theirs)
    found: dict[str, tuple[float, int]] = {}
    for name in sorted(mine.keys() & other.keys()):
        here, there = mine[name], other[name]
        if here.shape != there.shape or here.dtype != there.dtype:
            faults.append(f"{name} is {_looks(here)} here, {_looks(there)} there")
        else:
            found[name] = _deviation(here[rows] if rows is not None and name in WITH_TOKENS else here, there)
    n_elements = sum(other[name].numel() for name in found)
    return Difference(
        len(found),
        max((relative for relative, _ in found.values()), default=0.0),
        sum(count for _, count in found.values()) / max(n_elements, 1),
        tuple(f"{name} differs by {relative:.1e}" for name, (relative, count) in found.items() if count),
        (*faults, *_other_faults(ours, theirs)),
    )


def _deviation(here: Tensor, there: Tensor) -> tuple[float, int]:
    """Largest deviation of a tensor over its largest magnitude, and how many elements are beyond the limit."""
    same = (here == there) | (here.isnan() & there.isnan())
    deviation = (here.double() - there.double()).abs().masked_fill(same, 0.0).nan_to_num(nan=float("inf"))
    largest = max(float(there.double().abs().max()), 1e-30)
    limit = ROUNDING * largest + UNIT[there.dtype] * there.double().abs()
    return float(deviation.max()) / largest, int((deviation > limit).sum())


def _other_faults(ours: Path, theirs: Path) -> list[str]:
    faults = []
    if (theirs / "config.json").exists():
        here, there = (json.loads((folder / "config.json").read_text()) for folder in (ours, theirs))
        faults = [
            f"{key} is {here.get(key)} here, {there.get(key)} there"
            for key in DECIDED
            if here.get(key) != there.get(key)
        ]
    if (theirs / "tokenizer.json").exists():
        if _vocabulary(ours).keys() != _vocabulary(theirs).keys():
            faults.append("the tokenizers have other tokens")
        if _special(ours) != _special(theirs):
            faults.append("other tokens are special")
        if _template(ours) != _template(theirs):
            faults.append("the chat templates differ")
    return faults


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def _matching_rows(ours: Path, theirs: Path) -> Tensor | None:
    """Our row of each of their rows, by token, where the vocabularies number the same tokens in another way."""
    if not (theirs / "tokenizer.json").exists():
        return None
    mine, other = _vocabulary(ours), _vocabulary(theirs)
    if mine == other or mine.keys() != other.keys():
        return None
    rows = torch.arange(tensors(theirs)["model.embed_tokens.weight"].shape[0])
    for token, row in other.items():
        rows[row] = mine[token]
    return rows


def _vocabulary(folder: Path) -> Mapping[str, int]:
    tokenizer: Mapping[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return tokenizer


def _special(folder: Path) -> set[str]:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    return {token["content"] for token in added if token["special"]}


def _template(folder: Path) -> str:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text().strip()
    settings: Mapping[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    return str(settings.get("chat_template") or "").strip()


def _looks(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
