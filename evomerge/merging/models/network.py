"""The network that a configuration makes in transformers, on the meta device: its class, and the tensors it takes."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.auto_factory import _get_model_class
from transformers.utils.generic import ContextManagers

from evomerge.merging.models.header import CheckpointError, counted, shown
from evomerge.merging.models.model import Model
from search_spaces.base import Layout

#: Parameters that a network reads in training only (masked inputs); checkpoints for inference lack them.
TRAINING_ONLY = re.compile(r"(?:^|\.)mask(?:ed)?_(?:spec_embed|tokens?)$")
#: Exceptions of transformers for a configuration from which it cannot build a network.
_REFUSALS = (
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)


class NetworkError(CheckpointError):
    """A configuration of which this transformers makes no network."""


@dataclass(frozen=True)
class Outline:
    """A network without weights, and how the model's tensors differ from those it takes.

    network: a transformers model on the meta device. missing: parameters that the model lacks, which transformers would
    fill with random numbers. unexpected: tensors that it would leave out. mismatched: name, shape in the model, shape
    in the network.
    """

    network: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]


def architecture(model: Model) -> Any:
    """The transformers class that config.json names; a causal language model where it names none.

    Raises NetworkError for a name that is no class of models in this transformers.
    """
    name = _named(model)
    found = getattr(transformers, name, None)
    if found is None:
        raise NetworkError(f"{model.path}: transformers {transformers.__version__} has no architecture {name!a}.")
    is_class = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if name == _DEFAULT or (is_class and getattr(found, "config_class", None) is not None):
        return found
    raise NetworkError(
        f"{model.path}: config.json names {name!a} as the architecture, which is no class of models in transformers; "
        "expected one like LlamaForCausalLM."
    )


def is_known(model: Model) -> bool:
    """Whether config.json names an architecture that transformers has."""
    names = (model.config or {}).get("architectures")
    return bool(names) and hasattr(transformers, _named(model))


def configuration(model: Model) -> Any:
    """The transformers configuration of a model, with all defaults. Raises NetworkError for one that it refuses."""
    kind = getattr(architecture(model), "config_class", None) or transformers.AutoConfig
    # From a file of its own: `from_pretrained` does more than `from_dict`, and a model may have another configuration
    # than its folder (blocks in other places, another vocabulary).
    with TemporaryDirectory() as folder, quiet():
        (Path(folder) / "config.json").write_text(json.dumps(dict(model.config or {})), encoding="utf-8")
        try:
            return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except _REFUSALS as error:
            raise NetworkError(f"{model.path}: transformers refuses this config.json: {_first(error)}") from error


def hollow(model: Model) -> Any:
    """The network that a model's configuration makes, on the meta device; the model's tensors are not looked at.

    Raises NetworkError for a configuration of which transformers makes no network.
    """
    kind, config = architecture(model), configuration(model)
    with quiet():
        try:
            kind = _of_auto(kind, config)
            with ContextManagers(kind.get_init_context(torch.float32, False, False, None)):
                return kind(config)
        except (*_REFUSALS, RuntimeError) as error:
            raise NetworkError(
                f"{model.path}: transformers makes no {kind.__name__} of this config.json: {_first(error)}"
            ) from error


def outline(model: Model) -> Outline:
    """The network that a model's configuration makes, compared with the model's tensors; reads no weights.

    Raises NetworkError for a configuration of which transformers makes no network, CheckpointError for tensors that it
    cannot put into one.
    """
    kind, config = architecture(model), configuration(model)
    tensors = {name: torch.empty(model.shape(name), dtype=model.dtype(name), device="meta") for name in model.names}
    with quiet():
        try:
            kind = _of_auto(kind, config)
            network, found = kind.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
            )
        except _REFUSALS as error:
            raise NetworkError(
                f"{model.path}: transformers makes no {kind.__name__} of this config.json: {_first(error)}"
            ) from error
        except RuntimeError as error:
            raise CheckpointError(
                f"{model.path}: transformers cannot put these tensors into a {kind.__name__}: {_first(error)}"
            ) from error
    return Outline(
        network,
        tuple(sorted(found["missing_keys"])),
        tuple(sorted(found["unexpected_keys"])),
        tuple((name, tuple(ours), tuple(wanted)) for name, ours, wanted in sorted(found["mismatched_keys"])),
    )


def check_network(model: Model) -> None:
    """Compare a model's tensors, names and shapes, with those of the network that its configuration makes.

    Skips models that transformers cannot build, and single tensors outside the blocks that it
    leaves out (the pooler of a BERT that predicts words). Raises CheckpointError.
    """
    if not is_known(model):
        return
    try:
        found = outline(model)
    except NetworkError:  # nothing to compare with
        return
    where = f"{model.path}: config.json makes a {type(found.network).__name__} that"
    missing = tuple(name for name in found.missing if not TRAINING_ONLY.search(name))
    if missing:
        raise CheckpointError(
            f"{where} has {counted(missing)} more than the weights: transformers would fill them with random "
            "numbers. Correct config.json, or get all weights."
        )
    if found.mismatched:
        name, ours, wanted = found.mismatched[0]
        raise CheckpointError(
            f"{where} has {len(found.mismatched)} tensors of other shapes than the weights: {shown(name)} is {wanted} "
            f"there, {ours} in the weights."
        )
    depths = Layout.from_names(found.unexpected).blocks if found.unexpected else ()
    left_out = tuple(name for name, depth in zip(found.unexpected, depths, strict=True) if depth is not None)
    if left_out:
        raise CheckpointError(
            f"{where} has no place for {counted(left_out)} of the weights: transformers would leave them out. "
            "Does config.json name the right number of layers?"
        )


_DEFAULT = "AutoModelForCausalLM"


def _of_auto(kind: Any, config: Any) -> Any:
    """The class of models that an auto class stands for with this configuration; another class itself."""
    return _get_model_class(config, kind._model_mapping) if hasattr(kind, "_model_mapping") else kind


def _named(model: Model) -> str:
    names = (model.config or {}).get("architectures") or [_DEFAULT]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise NetworkError(
            f"{model.path}: `architectures` in config.json is {ascii(names)[:100]}; expected a list of names."
        )
    return names[0]


def _first(error: BaseException) -> str:
    """What an error of a library says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text[:300]}"


@contextmanager
def quiet() -> Iterator[None]:
    """While it lasts, do without the reports and progress bars of transformers; what differs is told by ours."""
    level, bars = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
