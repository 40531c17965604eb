"""Placement: how many workers fit on this machine or cluster, and what each of them takes."""

import os
from collections.abc import Mapping, Sequence

import torch

from evomerge.config import ConfigError, SearchConfig
from evomerge.execution.address import names_cluster
from evomerge.execution.nodes import Node, Resources, capacity
from evomerge.launch.memory import LIBRARIES, MemoryNeeds
from evomerge.merging.models.model import Model
from evomerge.resident.free_memory import available_memory
from evomerge.resident.resident import choose_device, compute_dtype
from evomerge.study import Study
from evomerge.text.sizes import size

#: Where a study's environment records the type that its candidates are scored in.
COMPUTE_DTYPE = "compute_dtype"
#: Folder in a session of Ray that holds the files of jobs.
_JOB_FOLDER = "working_dir_files"


def on_cluster(config: SearchConfig) -> bool:
    """Return whether the search file or the environment names a Ray cluster to run on."""
    return config.executor == "ray" and names_cluster(config.ray_address)


def placement(config: SearchConfig, needs: MemoryNeeds, nodes: Sequence[Node] = ()) -> tuple[int, int, float]:
    """(workers, CPUs per worker, GPUs per worker): one per GPU, else as many as cores and memory allow.

    nodes: those of the cluster, without any of which `auto` counts one worker there.
    """
    if on_cluster(config) or nodes:
        return _on_nodes(config, needs, nodes)
    threads = 1 if config.threads == "auto" else config.threads
    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count() if config.device in ("auto", "cuda") else 0
    if gpus:
        share = 1.0 if config.gpus_per_worker == "auto" else config.gpus_per_worker
        workers = max(1, int(gpus / share)) if config.workers == "auto" else config.workers
        return workers, max(1, cores // workers), share
    fitting = needs.fitting(available_memory())
    workers = max(1, min(cores // threads, fitting)) if config.workers == "auto" else config.workers
    return workers, threads, 0.0


def _on_nodes(config: SearchConfig, needs: MemoryNeeds, nodes: Sequence[Node]) -> tuple[int, int, float]:
    gpus = 0.0
    if config.device in ("auto", "cuda"):
        there = any(node.total.gpus for node in nodes)
        gpus = float(there) if config.gpus_per_worker == "auto" else config.gpus_per_worker
    threads = 1 if config.threads == "auto" else config.threads
    if gpus and config.threads == "auto":  # the workers of a node share its cores
        shares = [node.total.cpus // (node.total.gpus / gpus) for node in nodes if node.total.gpus >= gpus]
        threads = max(1, int(min(shares, default=1)))
    fitting = capacity(nodes, takes((1, threads, gpus), needs))
    return max(1, fitting) if config.workers == "auto" else config.workers, threads, gpus


def takes(placed: tuple[int, int, float], needs: MemoryNeeds) -> Resources:
    """Return what a worker takes of a node. placed: as `placement` returns it.

    Model files are mapped once for all workers of a node, and not counted; on a GPU, the network is not in main memory.
    """
    _, cpus, gpus = placed
    return Resources(cpus, gpus, LIBRARIES + needs.largest if gpus else needs.worker)


def memory_notes(config: SearchConfig, needs: MemoryNeeds) -> tuple[str, ...]:
    """Warn if the workers do not fit into memory; the machines of a cluster are not inspected."""
    if on_cluster(config):
        return ()
    workers, _, gpus = (1, 1, 0.0) if config.executor == "serial" else placement(config, needs)
    if gpus:
        there = torch.cuda.get_device_properties(0).total_memory * gpus
        if needs.device <= there:
            return ()
        return (f"a worker takes about {size(needs.device)} of GPU memory, but {size(there)} are available",)
    available, own = available_memory(), workers * needs.worker
    if own <= available:
        return ()
    asked = f"{workers} workers take" if workers > 1 else "a worker takes"
    return (f"{asked} about {size(own)} of memory, but {size(available)} are available",)


def folder_notes(config: SearchConfig) -> tuple[str, ...]:
    """Warn about a study in the folder that a Ray job is started in."""
    if _JOB_FOLDER not in config.study.absolute().parts:
        return ()
    said = (
        f"{config.where('study')}: {config.study} is in the folder of a Ray job, which is deleted with the cluster; "
        "choose one on shared storage"
    )
    return (said,)


def scoring_dtype(config: SearchConfig, base: Model, study: Study | None) -> tuple[str, tuple[str, ...]]:
    """The type of the network that scores candidates ("float32" or "stored"), with notes.

    study: the one that the file resumes, which keeps the type that it was begun with; one begun before this was
    recorded keeps that of the weights. The machines of a cluster are not inspected: there `stored` unless the file says
    otherwise.
    """
    stored = [base.dtype(name) for name in base.names if base.mergeable(name)]
    if config.dtype is not None:
        stored = [getattr(torch, config.dtype)]
    device = config.device if on_cluster(config) else choose_device(config.device)
    suits = compute_dtype(stored, device)
    begun_with = None if study is None else str(study.environment.get(COMPUTE_DTYPE, "stored"))
    chosen = config.compute_dtype or begun_with or suits
    half = next((str(dtype).removeprefix("torch.") for dtype in stored if dtype.itemsize == 2), None)
    if half is None:
        return "stored", ()
    if chosen == "float32":
        why = f": this CPU has no {half} instructions" if suits == "float32" else ""
        said = (
            f"candidates are rounded to {half} and scored by a float32 network{why}; their scores are those of the "
            f"export loaded in float32 (compute_dtype: stored would score in {half})"
        )
        return chosen, (said,)
    slow = f"candidates are scored in {half}, which this CPU emulates, several times slower than float32"
    return chosen, (slow,) if suits == "float32" else ()


def check_device(config: SearchConfig) -> None:
    """Raises ConfigError for a `device` that this machine has not got; a cluster elsewhere is not asked."""
    kind, _, number = config.device.partition(":")
    if on_cluster(config) or kind not in ("cuda", "mps"):
        return
    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(number or 0) >= there:
        found = f"{there} of that kind" if there else "none of that kind"
        raise ConfigError(
            f"device: {config.device} was requested, but torch {torch.__version__} finds {found} on this machine. "
            "Use device: auto, which takes a GPU if available."
        )


def check_own_networks(config: SearchConfig, needs: MemoryNeeds, own: Mapping[str, Sequence[str]]) -> None:
    """Raises ConfigError where parents need a network of their own, and one model is spread over several GPUs.

    own: by model, how its folder's configuration or tokenizer differs from the merges'.
    """
    share = placement(config, needs)[2] if own and config.executor == "ray" else 0.0
    if share > 1:
        said = "; ".join(f"{name}: {'; '.join(sentences)}" for name, sentences in own.items())
        raise ConfigError(
            f"{config.where('gpus_per_worker')}: {share:g} GPUs hold one model, and a parent whose folder computes or "
            f"reads differently from the merges can only be scored on one ({said}). Give it the base's configuration "
            "and tokenizer, or use gpus_per_worker: 1."
        )
