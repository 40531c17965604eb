"""vLLM's own verdict on a model and its arguments, without weights: `python -m evomerge.resident.vllm_probe`.

vLLM checks arguments, architecture, dtype and lengths when it makes its configuration, before it starts an engine. That
happens in a process of its own, since importing vLLM takes half a minute, and a gigabyte of memory that stays.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from evomerge.resident.vllm_engine import imported, in_one_line

#: Printed before the verdict, since vLLM may print, too.
_MARK = "evomerge verdict: "


@dataclass(frozen=True)
class Verdict:
    """Whether vLLM can run a model.

    error: why not; None if it can. device: the kind of device that this vLLM is built for; "" if unknown. adapters:
    whether the model takes adapters.
    """

    error: str | None = None
    device: str = ""
    adapters: bool = True


class _ConfiguredError(Exception):
    """Stops vLLM where it would start the engine."""

    def __init__(self, configuration: Any) -> None:
        super().__init__()
        self.configuration = configuration


class _NoEngine:
    """Stands for vLLM's engine, which is not started."""

    @classmethod
    def from_engine_args(cls, engine_args: Any, usage_context: Any) -> None:
        """Raise _ConfiguredError with the configuration, or what vLLM raises."""
        raise _ConfiguredError(engine_args.create_engine_config(usage_context))


def examine(*arguments: Mapping[str, Any]) -> list[Verdict]:
    """Return vLLM's verdicts on arguments of `vllm.LLM`, in one process; the same ones are examined once."""
    return _examine(json.dumps(arguments, sort_keys=True))


@lru_cache
def _examine(arguments: str) -> list[Verdict]:
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=arguments, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not lines:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        return [Verdict(f"asking it failed: {said[-1][:400]}") for _ in json.loads(arguments)]
    return [Verdict(**found) for found in json.loads(lines[-1].removeprefix(_MARK))]


def _verdict(arguments: Mapping[str, Any]) -> Verdict:
    vllm = imported()
    entry: Any = importlib.import_module("vllm.entrypoints.llm")
    entry.LLMEngine = _NoEngine
    try:
        vllm.LLM(**arguments)
    except _ConfiguredError as reached:
        return _of_configuration(reached.configuration)
    except Exception as error:  # noqa: BLE001 - whatever vLLM objects to
        return Verdict(in_one_line(error).partition(" Supported architectures:")[0])
    raise AssertionError("vLLM made no engine.")


def _of_configuration(configuration: Any) -> Verdict:
    """Return the verdict on a configuration that vLLM accepts."""
    model = configuration.model_config
    if model.runner_type != "generate":
        return Verdict(f"{model.architecture} computes embeddings or scores there, and generates no text.")
    set_configuration = importlib.import_module("vllm.config").set_current_vllm_config
    selector = importlib.import_module("vllm.v1.attention.selector")
    size = model.get_head_size()
    try:
        with set_configuration(configuration):
            cached = configuration.cache_config.cache_dtype
            attention = selector.get_attn_backend(size, model.dtype, cached, use_mla=model.use_mla)
    except Exception as error:  # noqa: BLE001 - whatever vLLM objects to
        return Verdict(in_one_line(error))
    if not (model.is_attention_free or attention.supports_head_size(size)):
        sizes = ", ".join(map(str, attention.get_supported_head_sizes()))
        return Verdict(f"its attention has no heads of size {size}; it has {sizes}.")
    kind, _ = model.registry.resolve_model_cls(model.architectures, model)
    supports = importlib.import_module("vllm.model_executor.models").supports_lora
    device = importlib.import_module("vllm.platforms").current_platform.device_type
    return Verdict(device=str(device), adapters=bool(supports(kind)))


if __name__ == "__main__":
    verdicts = [asdict(_verdict(arguments)) for arguments in json.load(sys.stdin)]
    sys.stdout.write(f"{_MARK}{json.dumps(verdicts)}\n")
