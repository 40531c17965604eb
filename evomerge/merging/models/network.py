"""The network that transformers builds from a configuration, on the meta device: its class and its tensors."""

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

#: Parameters that a network uses in training only (masked inputs); checkpoints for inference lack them.
TRAINING_ONLY = re.compile(r"(?:^|\.)mask(?:ed)?_(?:spec_embed|tokens?)$")
#: Exceptions of transformers for a configuration that it cannot build a network from.
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
    """A configuration that this version of transformers cannot build a network from."""


@dataclass(frozen=True)
class Outline:
    """A network without weights, and how the model's tensors differ from its own.

    network: a transformers model on the meta device. missing: parameters that the model lacks, which transformers would
    fill with random numbers. unexpected: tensors that it would ignore. mismatched: name, shape in the model, shape
    in the network.
    """

    network: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]


def architecture(model: Model) -> Any:
    """Return the transformers class named by config.json; a causal language model if it names none.

    Raises NetworkError for a name that is not a model class of this transformers.
    """
    name = _named(model)
    found = getattr(transformers, name, None)
    if found is None:
        raise NetworkError(f"{model.path}: transformers {transformers.__version__} has no architecture {name!a}.")
    is_class = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if name == _DEFAULT or (is_class and getattr(found, "config_class", None) is not None):
        return found
    raise NetworkError(
        f"{model.path}: config.json names {name!a} as the architecture, which is not a model class of transformers; "
        "expected one like LlamaForCausalLM."
    )


def is_known(model: Model) -> bool:
    """Return whether config.json names an architecture of transformers."""
    names = (model.config or {}).get("architectures")
    return bool(names) and hasattr(transformers, _named(model))


def configuration(model: Model) -> Any:
    """Return the transformers configuration of a model, with all defaults. Raises NetworkError if it is invalid."""
    kind = getattr(architecture(model), "config_class", None) or transformers.AutoConfig
    # From a separate file: `from_pretrained` does more than `from_dict`, and a model may have another configuration
    # than its folder (rearranged blocks, another vocabulary).
    with TemporaryDirectory() as folder, quiet():
        (Path(folder) / "config.json").write_text(json.dumps(dict(model.config or {})), encoding="utf-8")
        try:
            return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except _REFUSALS as error:
            raise NetworkError(f"{model.path}: transformers rejects this config.json: {_first(error)}") from error


def hollow(model: Model) -> Any:
    """Build the network of a model's configuration on the meta device, ignoring the model's tensors.

    Raises NetworkError if transformers cannot build it.
    """
    kind, config = architecture(model), configuration(model)
    with quiet():
        try:
            kind = _of_auto(kind, config)
            with ContextManagers(kind.get_init_context(torch.float32, False, False, None)):
                return kind(config)
        except (*_REFUSALS, RuntimeError) as error:
            raise NetworkError(
                f"{model.path}: transformers cannot build a {kind.__name__} from this config.json: {_first(error)}"
            ) from error


def outline(model: Model) -> Outline:
    """Compare the network of a model's configuration with the model's tensors; reads no weights.

    Raises NetworkError if transformers cannot build the network, CheckpointError for tensors that it
    cannot load into it.
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
                f"{model.path}: transformers cannot build a {kind.__name__} from this config.json: {_first(error)}"
            ) from error
        except RuntimeError as error:
            raise CheckpointError(
                f"{model.path}: transformers cannot load these tensors into a {kind.__name__}: {_first(error)}"
            ) from error
    return Outline(
        network,
        tuple(sorted(found["missing_keys"])),
        tuple(sorted(found["unexpected_keys"])),
        tuple((name, tuple(ours), tuple(wanted)) for name, ours, wanted in sorted(found["mismatched_keys"])),
    )


def check_network(model: Model) -> None:
    """Compare a model's tensors, names and shapes, with those of the network that its configuration defines.

    Skips models that transformers cannot build, and single tensors outside the blocks that it
    ignores (the pooler of a BERT that predicts words). Raises CheckpointError.
    """
    if not is_known(model):
        return
    try:
        found = outline(model)
    except NetworkError:  # nothing to compare with
        return
    where = f"{model.path}: config.json defines a {type(found.network).__name__} that"
    missing = tuple(name for name in found.missing if not TRAINING_ONLY.search(name))
    if missing:
        raise CheckpointError(
            f"{where} has {counted(missing)} more than the weights: transformers would fill them with random "
            "numbers. Correct config.json, or obtain all weights."
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
            f"{where} has no place for {counted(left_out)} of the weights: transformers would ignore them. "
            "Does config.json name the right number of layers?"
        )


_DEFAULT = "AutoModelForCausalLM"


def _of_auto(kind: Any, config: Any) -> Any:
    """Return the model class that an auto class selects for this configuration; other classes unchanged."""
    return _get_model_class(config, kind._model_mapping) if hasattr(kind, "_model_mapping") else kind


def _named(model: Model) -> str:
    names = (model.config or {}).get("architectures") or [_DEFAULT]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise NetworkError(
            f"{model.path}: `architectures` in config.json is {ascii(names)[:100]}; expected a list of names."
        )
    return names[0]


def _first(error: BaseException) -> str:
    """Return a library's error message on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text[:300]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' reports and progress bars; differences are reported here."""
    level, bars = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
