"""Resident models: weights that stay in memory while candidates are merged into them, one after the other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import architecture, outline
from search_spaces.base import FloatArray


class ModelError(ValueError):
    """A model that transformers cannot hold resident, or not tensor by tensor."""


class ResidentModel:
    """A model to merge into: its tensors by checkpoint name and, where there is a config.json, its network.

    tensors: checkpoint name -> the live tensor. coefficients: what they were merged with last.
    """

    def __init__(self, tensors: Mapping[str, Tensor], network: Any = None, tokenizer: Any = None) -> None:
        self.tensors = tensors
        self.coefficients: Mapping[str, FloatArray] = {}
        self._network = network
        self._tokenizer = tokenizer

    @property
    def network(self) -> Any:
        """The transformers model, in evaluation mode. Raises ModelError for bare weights."""
        if self._network is None:
            raise ModelError("The base is a bare tensor file without config.json: it cannot read text.")
        return self._network

    @property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises ModelError when the model's folder holds none."""
        if self._tokenizer is None:
            raise ModelError("The base has no tokenizer files (tokenizer.json): it cannot read text.")
        return self._tokenizer


def load_resident(
    base: Model, tokenizer: Path, dtype: torch.dtype | None, device: str, *, spread: bool = False
) -> ResidentModel:
    """Load the base once, as transformers loads the exported result, so that both score the same.

    The shell comes from `from_pretrained(dtype=...)`: casting afterwards would round rotary buffers too.
    spread: lay the layers out over all visible GPUs, for a model that one cannot hold.
    Raises ModelError when a tensor of the checkpoint has no tensor of its own in the network.
    """
    if base.config is None:
        tensors = {name: base.tensor(name).to(device=device, dtype=_target(base, name, dtype)) for name in base.names}
        return ResidentModel({name: tensor.clone() for name, tensor in tensors.items()})
    transformers.utils.logging.disable_progress_bar()  # bars belong to the command line; loading here is short
    network = architecture(base).from_pretrained(
        str(base.path),
        dtype=dtype or "auto",
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
        device_map="balanced" if spread else None,
    )
    rows = base.config.get("vocab_size")
    if rows and rows != getattr(network.config, "vocab_size", rows):
        network.resize_token_embeddings(rows, mean_resizing=False)
    network = (network if spread else network.to(device)).eval().requires_grad_(False)
    return ResidentModel(_named_tensors(base, network), network, _tokenizer(tokenizer))


def check_reads_text(base: Model, tokenizer: Path) -> None:
    """Raises ModelError, naming the folder, when these cannot make a model that reads text."""
    if base.config is None:
        raise ModelError(
            f"{base.path}: config.json missing. Tasks that read text need a whole model folder as the base: "
            "config.json, weights and tokenizer."
        )
    if not _has_tokenizer(tokenizer):
        raise ModelError(
            f"{tokenizer}: tokenizer.json missing. Tasks that read text need a tokenizer: add its files, or name "
            "another model with `tokenizer`."
        )


def unloaded(base: Model, tokenizer: Path) -> ResidentModel:
    """What of a model needs no weights, to check tasks against: its tokenizer, and its network on the meta device."""
    return ResidentModel({}, outline(base).network, _tokenizer(tokenizer))


def choose_device(wanted: str) -> str:
    """The torch device for "auto": the first GPU where there is one; or `wanted` itself."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _target(base: Model, name: str, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and base.mergeable(name) else base.dtype(name)


def _tokenizer(folder: Path) -> Any:
    if not _has_tokenizer(folder):
        return None
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))


def _named_tensors(base: Model, network: Any) -> dict[str, Tensor]:
    live = network.state_dict(keep_vars=False)
    prefix = f"{network.base_model_prefix}."
    named, missing = {}, []
    for name in base.names:
        found = next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in live), None)
        if found is not None and live[found].shape == torch.Size(base.shape(name)):
            named[name] = live[found]
        elif base.mergeable(name):
            missing.append(name)
    if missing:
        raise ModelError(
            f"{base.path}: {len(missing)} tensors have no place of their own in transformers' "
            f"{type(network).__name__}: {json.dumps(missing[:5])}."
        )
    return named


def smoke_test(folder: Path) -> None:
    """Load a written checkpoint as its users will and run it once. Raises ModelError when it is not sound."""
    checkpoint = Checkpoint.open(folder)
    if checkpoint.config is None:
        return
    network = load_resident(checkpoint, checkpoint.path, None, "cpu").network
    vocabulary = getattr(network.config, "vocab_size", None)
    if not vocabulary or getattr(network.config, "is_encoder_decoder", False):
        return
    with torch.inference_mode():
        logits = network(input_ids=torch.arange(16).remainder(vocabulary).unsqueeze(0)).logits
    if not torch.isfinite(logits).all():
        raise ModelError(f"{folder}: the exported model computes non-finite logits.")
