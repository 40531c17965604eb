"""Checks of a backend that generates in place of transformers, before it is started."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from evaluators._engines import write_with
from evaluators.base import Evaluator
from evomerge.bench import BenchSpec
from evomerge.config import ConfigError, SearchConfig
from evomerge.launch.placement import on_cluster
from evomerge.merge_space import MergeSpace
from evomerge.merging.baselines import sums_deltas
from evomerge.merging.recipe_models import RecipeModels
from evomerge.merging.stacked import rank_of, why_not_stacked
from evomerge.recipe import Merge
from evomerge.resident.resident import ResidentModel, choose_device
from evomerge.resident.vllm_engine import RANKS, Foreseen, is_installed, start_arguments, vllm_version
from evomerge.resident.vllm_probe import Verdict, examine
from evomerge.study import Study
from evomerge.trial import Trial

#: Where a study's environment records in which form vLLM gets candidates, and its values.
CANDIDATES, MERGED, STACKED = "vllm_candidates", "merged", "adapters"
#: Points of the space whose merges are examined.
_N_POINTS = 8


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


def examined(
    config: SearchConfig,
    spec: BenchSpec,
    sources: RecipeModels,
    reader: ResidentModel | None,
    say: Callable[[str], None],
) -> Verdict:
    """Let vLLM judge models and options, as far as it does without weights; on a cluster, nothing is judged.

    reader: the model without weights. Raises ConfigError if it refuses them.
    """
    if spec.backend is None or reader is None or on_cluster(config):
        return Verdict()
    say("asking vLLM about the model and its options")
    base, place = sources.base, config.where("backend")
    stored = spec.recipe.dtype or next(base.dtype(name) for name in base.names if base.mergeable(name))
    computed = "float32" if spec.compute_dtype == "float32" else str(stored).removeprefix("torch.")
    device = choose_device(config.device).partition(":")[0]
    arguments = start_arguments(
        base.path,
        sources.tokenizer,
        spec.backend.options,
        dtype=getattr(torch, computed),
        rows=getattr(reader.network.config, "vocab_size", None),
        rank=1 if spec.backend.options.get("enable_lora") else None,  # judges its options
        eager=device == "cpu",
    )
    (found,) = examine(arguments)
    if found.error is not None:
        raise ConfigError(
            f"{place}: vLLM {vllm_version()} refuses {base.path} with these settings ({computed}): "
            f"{found.error.removesuffix('.')}. Change the settings, or use `backend: transformers`."
        )
    if found.device and found.device != device:
        raise ConfigError(
            f"{place}: this vLLM is built for {found.device}, and the device is {device}; install vLLM for {device}, "
            f"change `device`, or use `backend: transformers`."
        )
    return found


def stacked(
    config: SearchConfig,
    spec: BenchSpec,
    verdict: Verdict,
    study: Study | None,
    sources: RecipeModels,
    space: MergeSpace,
    planned: Sequence[Trial],
    tasks: Mapping[str, Evaluator],
) -> tuple[bool, tuple[str, ...]]:
    """Return whether the backend gets candidates as adapters instead of merged weights, with a note on it.

    verdict: vLLM's. study: the one that the file resumes, which keeps the form that it was begun with. planned: its
    first trials.
    Raises ConfigError if adapters are demanded and impossible.
    """
    if spec.backend is None:
        return False, ()
    asked = spec.backend.options.get("enable_lora")
    why = _why_merged(sources, space, planned, tasks)
    if why is None and not verdict.adapters:
        why = "vLLM has no adapters for this architecture"
    if asked and why is not None:
        raise ConfigError(
            f"{config.where('backend')}: enable_lora asks for candidates that are adapters, but {why}. Leave it out, "
            "so that candidates are merged."
        )
    if why is None and asked is False:
        why = "enable_lora is false"
    if why is None and study is not None and study.environment.get(CANDIDATES, MERGED) == MERGED:
        why = "the study was begun so"
    if why is None and asked is None and _on_cpu(config):
        why = "its build for CPUs computes adapters more slowly (`enable_lora: true` for the backend asks for them)"
    if why is not None:
        return False, (f"vLLM's weights are replaced by those of every candidate, since {why}",)
    rank = rank_of(sources.base, sources.inputs)
    said = (
        f"vLLM keeps the base's weights and gets every candidate as one adapter of rank {rank}, without a merge "
        "(`enable_lora: false` for the backend asks for merges)"
    )
    return True, (said,)


def _on_cpu(config: SearchConfig) -> bool:
    """Return whether workers run on a CPU; a cluster, which is not inspected, is taken to have GPUs."""
    return (config.device if on_cluster(config) else choose_device(config.device)) == "cpu"


def _why_merged(
    sources: RecipeModels, space: MergeSpace, planned: Sequence[Trial], tasks: Mapping[str, Evaluator]
) -> str | None:
    """Return why candidates must be merged, as a clause; None if they can be adapters."""
    if space.arranges_blocks:
        return "candidates are paths through blocks"
    weighs = next((task for task, evaluator in tasks.items() if evaluator.needs_weights), None)
    if weighs is not None:
        return f"task {weighs!r} needs the merged weights themselves"
    why = why_not_stacked(sources.base, sources.inputs)
    if why is not None:
        return why
    rank = rank_of(sources.base, sources.inputs)
    if rank > RANKS[-1]:
        return f"the adapters' ranks add up to {rank}, and vLLM's limit is {RANKS[-1]}"
    dimensions = {name: len(sources.base.shape(name)) for name in sources.base.names}
    merges = (merge for merge in _merges(space, planned) if not sums_deltas(merge, dimensions))
    other = next(merges, None)
    return None if other is None else f"{other.recipe.method} is not always a sum of the adapters' changes to the base"


def _merges(space: MergeSpace, planned: Sequence[Trial]) -> Iterator[Merge]:
    """Yield the merges of the first trials, and those of some points."""
    for trial in planned:
        if trial.merge is not None:
            yield trial.merge
    for number in range(len(space.methods)):
        yield space.merge(space.default(number))
    for point in np.random.Generator(np.random.Philox(0)).random((_N_POINTS, space.dimension)):
        yield space.merge(point)


def backend_environment(config: SearchConfig, spec: BenchSpec) -> dict[str, Any]:
    """Return what the scores depend on besides the usual: the backend's version, and the form of candidates."""
    found = backend_versions(config)
    return {**found, CANDIDATES: STACKED} if spec.stacked else found


def backend_versions(config: SearchConfig) -> dict[str, str]:
    """Return the versions of packages that the scores depend on besides the usual ones."""
    found = vllm_version() if config.backend is not None else None
    return {} if found is None else {"vllm": found}
