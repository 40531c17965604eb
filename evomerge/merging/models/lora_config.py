"""adapter_config.json: the settings that determine a LoRA's weights; unsupported kinds raise an error.

Format: https://huggingface.co/docs/peft/package_reference/lora.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.merging.models.header import CheckpointError, shown
from evomerge.merging.models.shards import read_json

CONFIG = "adapter_config.json"

#: Settings under which an adapter's tensors are not simply two factors added to a weight.
_OTHER_KINDS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
#: Initializations that take the adapter's first values from the base: its own base is not the one on disk.
_OTHER_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
_MAX_PATTERN = 300
#: A repeated group in a pattern from a file can take unbounded time.
_SLOW = re.compile(r"\)[*+{]")


@dataclass(frozen=True)
class LoraConfig:
    """Ranks and scales of an adapter by module; patterns are regular expressions for the end of a module's name.

    transposed: `fan_in_fan_out`, for matrices whose shape does not tell.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilized: bool
    transposed: bool

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's factors."""
        return next((rank for pattern, rank in self.rank_pattern.items() if _ends_so(module, pattern)), self.rank)

    def scale_of(self, module: str) -> float:
        """Return the scale of the product of a module's factors."""
        alpha = next((value for pattern, value in self.alpha_pattern.items() if _ends_so(module, pattern)), self.alpha)
        rank = self.rank_of(module)
        # rsLoRA, https://arxiv.org/abs/2312.03732: the square root keeps the size of the change equal for all ranks.
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_lora_config(folder: Path) -> LoraConfig:
    """Read the settings of the adapter in `folder`. Raises CheckpointError, naming settings that are unsupported."""
    data = read_json(folder, CONFIG)
    if data is None:
        raise CheckpointError(f"{folder} is not an adapter: it has no {CONFIG}.")
    where = f"{folder}/{CONFIG}"
    if data.get("auto_map"):
        raise CheckpointError(
            f"{where} requires custom code (auto_map: {ascii(data['auto_map'])[:200]}), which is never run."
        )
    kind = data.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{where}: an adapter of type {ascii(kind)[:50]} cannot be folded into weights here; LORA can, with rsLoRA "
            "and DoRA. Load it with PEFT and save merge_and_unload() as a model."
        )
    other = [key for key in _OTHER_KINDS if data.get(key)]
    if other:
        raise CheckpointError(
            f"{where} sets {', '.join(other)}: this kind of LoRA cannot be folded into weights here. "
            "Load it with PEFT and save merge_and_unload() as a model, if PEFT supports that."
        )
    begin = data.get("init_lora_weights")
    if isinstance(begin, str) and begin.lower().startswith(_OTHER_BASE):
        raise CheckpointError(
            f"{where}: init_lora_weights is {begin[:50]!r}, which changes the base too. Save the adapter again with "
            "PEFT's path_initial_model_for_weight_conversion."
        )
    return LoraConfig(
        rank=_rank(data.get("r", 8), where, "r"),
        alpha=_number(data.get("lora_alpha", 8), where, "lora_alpha"),
        rank_pattern={p: _rank(v, where, p) for p, v in _patterns(data, "rank_pattern", where).items()},
        alpha_pattern={p: _number(v, where, p) for p, v in _patterns(data, "alpha_pattern", where).items()},
        rank_stabilized=data.get("use_rslora") is True,
        transposed=data.get("fan_in_fan_out") is True,
    )


def _patterns(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    patterns = data.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{where}: {key} must map patterns to numbers; it is {ascii(patterns)[:100]}.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointError(f"{where}: {key} has {shown(pattern)}, not a regular expression: {error}.") from error
        if len(pattern) > _MAX_PATTERN or _SLOW.search(pattern):
            raise CheckpointError(f"{where}: {key} has {shown(pattern)}; repeated groups and long texts are not read.")
    return patterns


def _ends_so(module: str, pattern: str) -> bool:
    return re.match(rf"(?:.*\.)?(?:{pattern})$", module) is not None


def _rank(value: Any, where: str, key: str) -> int:
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{where}: {shown(key)} must be a positive integer; it is {ascii(value)[:50]}.")
    return value


def _number(value: Any, where: str, key: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise CheckpointError(f"{where}: {shown(key)} must be a finite number; it is {ascii(value)[:50]}.")
    return float(value)
