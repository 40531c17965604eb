"""Checks of a backend that generates in place of transformers, before it is started."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluators._engines import write_with
from evomerge.bench import BenchSpec
from evomerge.config import ConfigError, SearchConfig
from evomerge.resident.resident import ResidentModel
from evomerge.resident.vllm_engine import Foreseen, is_installed, vllm_version


def check_backend(config: SearchConfig) -> None:
    """Raise ConfigError for a backend that this machine lacks, or that cannot use the device or several GPUs.

    The machines of a cluster are not inspected.
    """
    if config.backend is None:
        return
    place = config.where("backend")
    if config.ray_address is None and not is_installed():
        raise ConfigError(
            f"{place}: vLLM is not installed in this environment. Install it as docs/tasks.md says (it needs an older "
            "transformers than evomerge, so in an environment of its own), or use `backend: transformers`."
        )
    if config.device == "mps" or (config.device.startswith("cuda:") and config.device != "cuda:0"):
        raise ConfigError(
            f"{place}: vLLM runs on the CPU or on the first visible GPU, and device is {config.device}; use "
            "`backend: transformers`, or set CUDA_VISIBLE_DEVICES to choose the GPU."
        )
    if config.gpus_per_worker != "auto" and config.gpus_per_worker > 1:
        raise ConfigError(
            f"{place}: vLLM holds a model on one GPU here, but gpus_per_worker is {config.gpus_per_worker:g}; "
            "expected at most 1, or `backend: transformers`."
        )


def foresee(config: SearchConfig, reader: ResidentModel) -> Foreseen | None:
    """Register a backend for a model without weights, so that tasks are checked against what it supports."""
    if config.backend is None:
        return None
    foreseen = Foreseen()
    write_with(reader.network, foreseen)
    return foreseen


def with_length(
    config: SearchConfig, spec: BenchSpec, foreseen: Foreseen | None, own: Mapping[str, Sequence[str]]
) -> BenchSpec:
    """Return the specification with the length of texts that the backend must hold.

    own: models with a configuration of their own, with sentences. Raises ConfigError if no task generates, or if the
    backend cannot score one of the models.
    """
    if spec.backend is None:
        return spec
    place = config.where("backend")
    if foreseen is None or not foreseen.longest:
        raise ConfigError(
            f"{place}: {spec.backend.kind} generates text, but no task does; likelihoods are computed by transformers "
            "in any case. Leave `backend` out."
        )
    if own:
        said = "; ".join(f"{name}: {'; '.join(sentences)}" for name, sentences in own.items())
        raise ConfigError(
            f"{place}: vLLM scores every model with the base's config.json, and these differ in it: {said}. Give them "
            "the base's configuration, or use `backend: transformers`."
        )
    room = spec.backend.options.get("max_model_len")
    if isinstance(room, int) and 0 < room < foreseen.longest:
        raise ConfigError(
            f"{place}: max_model_len is {room}, but a prompt with its continuation has up to {foreseen.longest} "
            "tokens; give at least that, or leave it out."
        )
    options = {"max_model_len": foreseen.longest, **spec.backend.options}
    return replace(spec, backend=replace(spec.backend, options=options))


def backend_versions(config: SearchConfig) -> dict[str, str]:
    """Return the versions of packages that the scores depend on besides the usual ones."""
    found = vllm_version() if config.backend is not None else None
    return {} if found is None else {"vllm": found}
