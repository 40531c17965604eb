"""Settings of transformers' `generate`: which of them decide on a greedy continuation."""

import copy
from collections.abc import Mapping
from typing import Any

#: Settings of `generate` that do not affect greedy decoding, or that are followed here.
FOLLOWED = frozenset(
    {
        "_from_model_config",
        "bos_token_id",
        "decoder_start_token_id",
        "do_sample",
        "eos_token_id",
        "max_length",
        "max_new_tokens",
        "min_p",
        "pad_token_id",
        "repetition_penalty",
        "temperature",
        "top_k",
        "top_p",
        "transformers_version",
        "typical_p",
        "use_cache",
    }
)
#: Values of others without an effect; so are 0, false and none.
WITHOUT_EFFECT = {"num_beams": 1, "num_return_sequences": 1}


def end_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text."""
    configured = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None)


def effective(network: Any, options: Mapping[str, Any]) -> Any:
    """Return the network's settings of `generate`, overridden by the options."""
    config = copy.deepcopy(network.generation_config)
    config.update(**{"do_sample": False, **options})
    return config


def without_equal(network: Any, options: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that change a greedy continuation in a way that only `generate` follows."""
    settings = {**options, **effective(network, options).to_diff_dict()}
    return sorted(
        name for name, value in settings.items() if name not in FOLLOWED and value and value != WITHOUT_EFFECT.get(name)
    )


def is_greedy(network: Any, options: Mapping[str, Any]) -> bool:
    """Return whether each token is the most likely one, except for a repetition penalty."""
    if not hasattr(network, "generation_config"):
        return False
    return not effective(network, options).do_sample and not without_equal(network, options)
