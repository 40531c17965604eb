"""Differences between models' config.json settings that change what their weights compute."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.merging.models.model import Model
from evomerge.merging.models.network import NetworkError, configuration

#: Settings that do not affect scoring: names, training, loading.
_COSMETIC = re.compile(
    r"_.*|architectures|model_type|name_or_path|transformers_version|(torch_)?dtype|auto_map|unsloth.*|use_cache"
    r"|output_(attentions|hidden_states|router_logits)|return_dict|id2label|label2id|problem_type|num_labels"
    r"|task_specific_params|finetuning_task|tokenizer_class|prefix|gradient_checkpointing|pretraining_tp"
    r"|initializer.*|init_std|.*dropout(_rate|_prob)?|.*_pdrop|drop_path_rate|(encoder_|decoder_)?layerdrop"
    r"|.*_loss_coef|.*jitter_noise|mask_(time|feature)_.*|apply_spec_augment|(bos|eos|pad|sep|cls|mask|unk)_token_id"
    r"|vocab_size|forced_(bos|eos)_token_id|chunk_size_feed_forward"
)
#: Settings that only determine a list of layers, which is compared itself.
_BEHIND_LAYERS = ("max_window_layers", "use_sliding_window", "sliding_window_pattern")
#: Rotary embeddings that do not depend on the context length that a model was made for.
_PLAIN_ROPE = ("default", "linear", "llama3")


def setting_differences(base: Model, inputs: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
    """Return, by input, a sentence for each setting that changes what weights compute and differs from the base's.

    Settings are compared with all defaults of their class, so that a missing one has its default; if transformers
    cannot read the configuration, as written in the files. Inputs without differences are omitted.
    """
    ours, found = _settings(base), {}
    for label, model in inputs.items():
        if base.config is not None and model.config is not None and model.config != base.config:
            sentences = tuple(_different(ours, _settings(model)))
            if sentences:
                found[label] = sentences
    return found


def _settings(model: Model) -> dict[str, Any]:
    """Return setting -> value, by path (`text_config.rope_parameters.rope_theta`)."""
    try:
        config = configuration(model).to_dict()
    except NetworkError:
        config = dict(model.config or {})
    found = dict(_flat(config, ""))
    names = (model.config or {}).get("architectures")
    return {"architecture": names[0] if isinstance(names, list) and names else None, **found}


def _flat(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    layers = "layer_types" in config
    rope = set(_values(config.get("rope_parameters"), "rope_type"))
    for key, value in config.items():
        if _COSMETIC.fullmatch(str(key)) or (layers and key in _BEHIND_LAYERS):
            continue
        if key == "max_position_embeddings" and rope and rope <= set(_PLAIN_ROPE):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", list(value) if isinstance(value, tuple) else value


def _values(settings: Any, key: str) -> Iterator[Any]:
    """Yield the values of `key` in settings, or in settings per kind of layer."""
    if isinstance(settings, Mapping):
        if key in settings:
            yield settings[key]
        for value in settings.values():
            yield from _values(value, key)


def _different(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    another = (
        None not in (ours["architecture"], theirs["architecture"]) and ours["architecture"] != theirs["architecture"]
    )
    for key in dict.fromkeys((*ours, *theirs)):
        a, b = ours.get(key), theirs.get(key)
        if key == "architecture" and not another:
            continue
        # Two architectures share only settings of the same names.
        if a != b and not (another and (key not in ours or key not in theirs)):
            yield f"{key} is {_shown(b)}, the base's is {_shown(a)}"


def _shown(value: Any) -> str:
    text = "not set" if value is None else ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
