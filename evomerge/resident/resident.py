"""Resident models: weights that stay in memory while candidates are merged into them, one after the other."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import architecture, configuration, hollow, outline
from evomerge.merging.models.shards import check_inside, check_tokenizer, read_json
from evomerge.merging.output.assets import has_mark
from evomerge.resident.places import (
    Loading,
    ModelError,
    Staged,
    find_places,
    place_tensors,
    prove,
    training_only,
    untie,
)
from search_spaces.base import FloatArray

__all__ = ["ModelError", "ResidentModel", "compute_dtype", "load_resident"]

#: Instruction sets (x86, ARM) for multiplying matrices of a 16-bit dtype.
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


class ResidentModel:
    """A model to merge into: its tensors by checkpoint name and, with a config.json, its network.

    tensors: checkpoint name -> the live tensor; a view if transformers fuses tensors on loading.
    staged: those of `tensors` that reach the network only through `settle`. dtypes: dtype of each tensor in
    an export, if it differs from the live one. coefficients: those of the last merge.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        network: Any = None,
        tokenizer: Any = None,
        staged: Sequence[Staged] = (),
        *,
        dtypes: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        self.tensors = tensors
        self.dtypes = dtypes or {name: tensor.dtype for name, tensor in tensors.items()}
        self.coefficients: Mapping[str, FloatArray] = {}
        self._network = network
        self._tokenizer = tokenizer
        self._staged = tuple(staged)

    @property
    def staged(self) -> tuple[str, ...]:
        """Names of the tensors that reach the network only through `settle`."""
        return tuple(name for staged in self._staged for name in staged.tensors)

    @property
    def conversions(self) -> tuple[Staged, ...]:
        """The conversions through which `staged` tensors reach the network."""
        return self._staged

    def settle(self) -> None:
        """Propagate writes to `tensors` to the network: call it after every write, before a forward pass."""
        for staged in self._staged:
            staged.settle()

    def read_with(self, network: Any, tokenizer: Any = None) -> "ResidentModel":
        """Return the same tensors with another network that uses them, and another tokenizer: by default a copy.

        Evaluators prepare again for a copy, since another network may have another context length.
        """
        other = copy(self)
        other._network, other._tokenizer = network, copy(self._tokenizer) if tokenizer is None else tokenizer
        return other

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a readable tokenizer."""
        return self._tokenizer is not None and not isinstance(self._tokenizer, ModelError)

    @property
    def has_network(self) -> bool:
        """Whether there is a network; bare weights have none."""
        return self._network is not None

    @property
    def network(self) -> Any:
        """The transformers model, in evaluation mode. Raises ModelError for bare weights."""
        if self._network is None:
            raise ModelError("The base is a bare tensor file without config.json: it cannot read text.")
        return self._network

    @property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises ModelError if the model's folder has none that transformers can read."""
        if self._tokenizer is None:
            raise ModelError("The base has no tokenizer files (tokenizer.json): it cannot read text.")
        if isinstance(self._tokenizer, ModelError):
            raise self._tokenizer
        return self._tokenizer


def load_resident(
    base: Model,
    tokenizer: Path,
    dtype: torch.dtype | None,
    device: str,
    *,
    spread: bool = False,
    compute: torch.dtype | None = None,
) -> ResidentModel:
    """Load the base once, as transformers loads the exported result, so that both score the same.

    The shell comes from `from_pretrained(dtype=...)`: casting afterwards would round rotary buffers too.
    dtype: dtype of the merged weights, None for the base's own. compute: dtype of the network, if different; weights
    are rounded to `dtype` before they are written into it. spread: distribute the layers over all visible GPUs, for a
    model that does not fit on one.
    Raises ModelError if `check_resident` would, and for weights that are not where they should be.
    """
    if base.config is None:
        tensors = {name: base.tensor(name).to(device=device, dtype=_target(base, name, dtype)) for name in base.names}
        return ResidentModel({name: tensor.clone() for name, tensor in tensors.items()})
    _check_mark(base)
    transformers.utils.logging.disable_progress_bar()  # progress bars belong to the command line
    network = architecture(base).from_pretrained(
        str(base.path),
        dtype=compute or dtype or "auto",
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
        device_map="balanced" if spread else None,
    )
    _resize(network, base)
    network = (network if spread else network.to(device)).eval().requires_grad_(False)
    if network.can_generate():
        network.generation_config = generation_settings(base, tokenizer)
    loading = _loading(base, network)
    untie(network, loading)
    places, staged = place_tensors(network, loading, {name: base.shape(name) for name in base.names})
    file = Checkpoint.open(base.path, passing=True)
    # Rows added by a new vocabulary are in no file.
    loaded = [name for name in file.names if name in places and places[name].shape == torch.Size(file.shape(name))]
    prove(places, staged, {name: partial(file.tensor, name) for name in loaded}, str(base.path))
    for name in loading.missing:
        if training_only(name):  # otherwise random numbers: NaN reveals any use
            network.get_parameter(name).data.fill_(torch.nan)
    places |= {name: base.tensor(name).to(device, _target(base, name, dtype), copy=True) for name in loading.idle}
    tensors = {name: places[name] for name in base.names if name in places}
    dtypes = {name: _target(base, name, dtype) for name in tensors} if compute else None
    return ResidentModel(tensors, network, read_tokenizer(tokenizer), staged, dtypes=dtypes)


def check_resident(base: Model) -> tuple[str, ...]:
    """Find a place for every tensor in the network that config.json describes; reads no weights.

    Returns warnings. Raises ModelError or CheckpointError if `load_resident` would.
    """
    if base.config is None:
        return ()
    idle = _loading(base, hollow(base)).idle
    if not idle:
        return ()
    some = f"{', '.join(idle[:3])}{', ...' if len(idle) > 3 else ''}"
    return (f"transformers does not load {len(idle)} tensors ({some}): they are merged and written, but not scored",)


def _loading(base: Model, network: Any) -> Loading:
    shapes = {name: base.shape(name) for name in base.names}
    return find_places(network, shapes, base.mergeable, str(base.path))


def _resize(network: Any, base: Model) -> None:
    """Give the network the rows of the base's vocabulary, which may differ from its folder's."""
    rows = _rows(base.config)
    if rows != _rows(read_json(base.path, "config.json")):
        network.resize_token_embeddings(rows, mean_resizing=False)


def _rows(config: Mapping[str, Any] | None) -> Any:
    config = config or {}
    text = config.get("text_config")
    return text["vocab_size"] if isinstance(text, dict) and "vocab_size" in text else config.get("vocab_size")


def generation_settings(model: Model, tokenizer: Path) -> transformers.GenerationConfig:
    """Return an export's generation settings: the tokenizer folder's, else the model's, else config.json's."""
    for folder in (tokenizer, model.path):
        if (folder / "generation_config.json").is_file():
            check_inside(folder, "generation_config.json")
            return transformers.GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    return transformers.GenerationConfig.from_model_config(configuration(model))


def check_network_of(base: Model) -> None:
    """Raise ModelError, naming the folder, for bare weights."""
    if base.config is None:
        raise ModelError(
            f"{base.path}: config.json missing. Tasks that read text or images need a whole model folder as the base: "
            "config.json, weights, and what reads (tokenizer or image processor)."
        )


def check_reads_text(base: Model, tokenizer: Path) -> None:
    """Raise ModelError, naming the folder, if these cannot form a model that reads text."""
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
    """Return a model without weights to check tasks against: its tokenizer, and its network on the meta device."""
    _check_mark(base)
    return ResidentModel({}, outline(base).network, read_tokenizer(tokenizer))


def choose_device(wanted: str) -> str:
    """Return the torch device for "auto", the first GPU if there is one, or `wanted` itself."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_mark(base: Model) -> None:
    if has_mark(base.path):
        raise ModelError(
            f"{base.path / 'config.json'} begins with a byte order mark, which transformers cannot read: save it as "
            "UTF-8 without one."
        )


def compute_dtype(stored: Iterable[torch.dtype], device: str, capabilities: Mapping[str, Any] | None = None) -> str:
    """Return the compute dtype for weights of these dtypes: "stored" (theirs), or "float32" on a CPU that emulates
    them.

    Without its instructions, a 16-bit dtype takes a CPU several times as long as float32. capabilities: names of
    instruction sets, this CPU's if None; a torch that cannot tell (before 2.10) counts as having none.
    """
    if device != "cpu":
        return "stored"
    if capabilities is None:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    slow = (dtype in _INSTRUCTIONS and not any(map(capabilities.get, _INSTRUCTIONS[dtype])) for dtype in stored)
    return "float32" if any(slow) else "stored"


def _target(base: Model, name: str, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and base.mergeable(name) else base.dtype(name)


def read_tokenizer(folder: Path) -> Any:
    """Read the tokenizer of a folder; None if there is none, a ModelError to raise later if it is unreadable."""
    if not _has_tokenizer(folder):
        return None
    check_tokenizer(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # noqa: BLE001 - tokenizers has no exception of its own
        # Only tasks that read text need it: they raise this.
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        return ModelError(f"{folder}: transformers {transformers.__version__} cannot read the tokenizer: {reason}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
