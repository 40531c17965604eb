"""Placement: how many workers fit on this machine, and the executor that holds them."""

import os
from dataclasses import replace

from evomerge.config import ConfigError, SearchConfig
from evomerge.execution.base import Executor
from evomerge.execution.serial import SerialExecutor
from evomerge.trial import BenchSpec


def start_executor(config: SearchConfig, bench: BenchSpec, model_bytes: int) -> Executor:
    """The configured executor, with as many workers as fit."""
    if config.executor == "serial":
        return SerialExecutor(bench)
    from evomerge.execution.ray_pool import RayPool  # starting Ray is for those who use it

    workers, cpus, gpus = placement(config, model_bytes)
    return RayPool(
        replace(bench, gpus=gpus),
        workers=workers,
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        address=config.ray_address,
        trial_timeout=config.trial_timeout,
    )


def placement(config: SearchConfig, model_bytes: int) -> tuple[int, int, float]:
    """(workers, CPUs per worker, GPUs per worker): one per GPU, else as many as cores and memory allow."""
    cores, gpus = len(os.sched_getaffinity(0)), _gpus() if config.device in ("auto", "cuda") else 0
    if gpus:
        share = 1.0 if config.gpus_per_worker == "auto" else config.gpus_per_worker
        workers = max(1, int(gpus / share)) if config.workers == "auto" else config.workers
        return workers, max(1, cores // workers), share
    threads = 1 if config.threads == "auto" else config.threads
    fitting = max(1, int(0.8 * _memory() / worker_bytes(model_bytes)))
    workers = max(1, min(cores // threads, fitting)) if config.workers == "auto" else config.workers
    return workers, threads, 0.0


def worker_bytes(model_bytes: int) -> int:
    """What a worker needs: resident weights, activations and a share of the page cache for the inputs."""
    return 2 * model_bytes + 600_000_000


def check_device(config: SearchConfig) -> None:
    """Raises ConfigError for a `device` that this machine has not got; a cluster elsewhere is not asked."""
    kind, _, number = config.device.partition(":")
    if config.ray_address is not None or kind not in ("cuda", "mps"):
        return
    import torch  # counting devices needs torch

    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(number or 0) >= there:
        found = f"{there} of that kind" if there else "none of that kind"
        raise ConfigError(
            f"device: {config.device} was asked for, and torch {torch.__version__} finds {found} on this machine. "
            "Use device: auto, which takes a GPU where there is one."
        )


def _gpus() -> int:
    import torch  # counting devices needs torch; a driver without GPUs in its file does not

    return torch.cuda.device_count()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
