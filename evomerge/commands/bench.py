"""`evomerge bench`: where the time of a candidate goes, beside the limits of this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from evomerge import plugins
from evomerge.bench import Bench
from evomerge.config import SearchConfig, load_config
from evomerge.launch.placement import placement
from evomerge.launch.plan import LaunchError, Plan, begun, prepare
from evomerge.merging.fused.tensors import kernels
from evomerge.optimizers.base import Optimizer
from evomerge.report import words
from evomerge.resident.forward_meter import ForwardMeter
from evomerge.resident.machine_limits import MachineLimits, machine_limits
from evomerge.resident.resident import choose_device
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Outcome, Trial

#: Examples of every task in a gradient step, as in a descent of a few tasks.
_IN_A_STEP = 8
#: Shares of the time from which a stage is worth a suggestion, and shares of a limit below which it is slow.
_MUCH, _SLOW = 0.2, 0.3


@dataclass(frozen=True)
class Measured:
    """One candidate: its outcome, forward passes, and floating-point operations of the matrix products in them."""

    outcome: Outcome
    forward: ForwardMeter
    operations: float


def bench_search(
    place: Path, examples: int, *, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], list[str]]:
    """Measure a candidate of a search, as plain data and as lines of text.

    place: a search file, or the folder of a run, whose trials then also say how busy its workers were. examples: at
    most so many of each task. Raises the errors of `prepare`, and LaunchError if a candidate fails.
    """
    config = Run(place).config if place.is_dir() else load_config(place, files=True)
    plan = prepare(config, say=say)
    workers, threads, gpus = (
        (1, plan.spec.threads, 0.0) if config.executor == "serial" else placement(config, plan.needs)
    )
    say("measuring the machine's limits")
    bench = plan.spec()
    device = choose_device(config.device)
    limits = machine_limits(device, _network_dtype(bench), plan.spec.threads)
    say("scoring three candidates")
    chosen = {task: plan.ids[task, "search"][:examples] for task in config.tasks}
    candidate = _measure(bench, plan, chosen, config.seed)
    written = sum(tensor.nbytes for tensor in bench.model.tensors.values())
    data = {
        "examples": {task: len(ids) for task, ids in chosen.items()},
        "of": {task: len(plan.ids[task, "search"]) for task in chosen},
        "threads": plan.spec.threads,
        "limits": {"bytes_per_second": limits.bandwidth, "operations_per_second": limits.products},
        **_shares(candidate, limits, plan.needs.inputs + written),
        "gradient_step": _step(bench, plan, config),
        "study": _of_study(begun(config), workers),
    }
    rest = sum(seconds * data["of"][task] / data["examples"][task] for task, seconds in data["tasks"].items())
    data["whole_seconds"] = data["merge"]["seconds"] + rest
    data["suggestions"] = _suggestions(data, config, threads, gpus)
    return data, _lines(data)


def _network_dtype(bench: Bench) -> torch.dtype:
    parameter = next(bench.model.network.parameters(), None) if bench.model.has_network else None
    return next(iter(bench.model.tensors.values())).dtype if parameter is None else parameter.dtype


def _measure(bench: Bench, plan: Plan, chosen: Mapping[str, tuple[str, ...]], seed: int) -> Measured:
    """Score three random points: the first fills caches, the second is timed, and operations are counted on the third.

    Counting slows forward passes down.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    trials = [Trial(n, rng.random(plan.space.dimension), seed=seed, examples=chosen) for n in range(3)]
    _succeeded(bench.run(trials[0]))
    meter, counter = ForwardMeter(), FlopCounterMode(display=False)
    if not bench.model.has_network:
        return Measured(_succeeded(bench.run(trials[1])), meter, 0.0)
    with meter.measured(bench.model.network):
        outcome = _succeeded(bench.run(trials[1]))
    with counter:
        _succeeded(bench.run(trials[2]))
    return Measured(outcome, meter, float(counter.get_total_flops()))


def _succeeded(outcome: Outcome) -> Outcome:
    if outcome.failure is not None:
        raise LaunchError(f"A candidate could not be scored: {outcome.failure.kind}: {outcome.failure.message}")
    return outcome


def _shares(candidate: Measured, limits: MachineLimits, moved: int) -> dict[str, Any]:
    seconds = candidate.outcome.seconds
    total, merge, forward = sum(seconds.values()), seconds.get("merge", 0.0), candidate.forward
    bandwidth = moved / merge if merge else 0.0
    speed = candidate.operations / forward.seconds if forward.seconds else 0.0
    return {
        "seconds": total,
        "merge": {
            "seconds": merge,
            "share": merge / total,
            "bytes": moved,
            "bytes_per_second": bandwidth,
            "of_limit": bandwidth / limits.bandwidth,
        },
        "forward": {
            "seconds": forward.seconds,
            "share": forward.seconds / total,
            "passes": forward.passes,
            "positions": forward.positions,
            "operations_per_second": speed,
            "of_limit": speed / limits.products,
        },
        "around": {
            "seconds": total - merge - forward.seconds,
            "share": 1 - (merge + forward.seconds) / total,
        },
        "tasks": {name.partition(":")[2]: value for name, value in seconds.items() if name != "merge"},
    }


def _step(bench: Bench, plan: Plan, config: SearchConfig) -> dict[str, Any] | None:
    """Time a gradient step after a change of all coefficients; None where the search takes none."""
    measures = plan.measures
    with_loss = [task for task in config.tasks if plan.no_loss[task] is None]
    kind: type[Optimizer] = plugins.load("optimizer", config.optimizer.kind, Optimizer)
    if not kind.follows_gradients or measures.no_gradient or not with_loss:
        return None
    ids = {task: plan.ids[task, "search"][:_IN_A_STEP] for task in with_loss}
    weights = {task: 1 / len(ids) for task in config.tasks if task in ids}
    rng = np.random.Generator(np.random.Philox(key=config.seed + 1))
    trials = [
        Trial(n, rng.random(plan.space.dimension), seed=config.seed, examples=ids, gradient=weights) for n in range(2)
    ]
    seconds = [_succeeded(bench.run(trial)).seconds for trial in trials][-1]
    merge, backward = seconds.get("merge", 0.0), seconds.get("gradient", 0.0)
    total = sum(seconds.values())
    return {
        "examples": sum(map(len, ids.values())),
        "seconds": total,
        "merge": merge / total,
        "forward": (total - merge - backward) / total,
        "backward": backward / total,
    }


def _of_study(study: Study | None, workers: int) -> dict[str, Any] | None:
    """Return how the workers of a begun study spent their time, and for how much of it they were busy."""
    stages: dict[str, float] = {}
    for entry in () if study is None else study.ended:
        for stage, seconds in ({} if entry.outcome is None else entry.outcome.seconds).items():
            kind = stage.partition(":")[0]
            stages[kind] = stages.get(kind, 0.0) + seconds
    if study is None or not stages or not study.active_seconds:
        return None
    worked = sum(stages.values())
    return {
        "seconds": study.active_seconds,
        "workers": workers,
        "busy": worked / (study.active_seconds * workers),
        "stages": {stage: seconds / worked for stage, seconds in stages.items()},
    }


def _suggestions(data: Mapping[str, Any], config: SearchConfig, threads: int, gpus: float) -> list[str]:
    merge, forward, around, found = data["merge"], data["forward"], data["around"], []
    if kernels("sums") is None and not gpus:
        found.append("Numba is not installed, so merges run operation by operation: pip install numba")
    elif merge["share"] > _MUCH and merge["of_limit"] < _SLOW:
        found.append(
            f"Merging by {' or '.join(config.methods)} is far below the memory's bandwidth: linear and task_arithmetic "
            "merge in one pass, and `space` with fewer groups leaves more thresholds unchanged"
        )
    elif merge["share"] > _MUCH:
        found.append(
            "Merging is a large share although it is fast: score more examples per candidate, or smaller models"
        )
    if threads > 1 and not gpus and forward["share"] > _MUCH and forward["of_limit"] < _SLOW:
        found.append(
            "Forward passes are far below the speed of matrix products: with a small model or short texts, more "
            f"workers with one thread each are faster than {threads} threads (`threads: 1`)"
        )
    if forward["passes"] and around["share"] > _MUCH:
        slowest = max(data["tasks"], key=data["tasks"].__getitem__)
        found.append(
            f"Much of the time passes outside of merges and forward passes: look at the metric and the stop strings of "
            f"{slowest}, the slowest task"
        )
    study = data["study"]
    if study is not None and study["busy"] < 1 - _MUCH and config.executor != "serial":
        found.append(
            f"Workers were busy for {study['busy']:.0%} of the time: gradient steps follow each other, and black-box "
            "optimizers wait at the end of a generation; fewer workers cost little"
        )
    return found


def _lines(data: Mapping[str, Any]) -> list[str]:
    merge, forward, around, limits = data["merge"], data["forward"], data["around"], data["limits"]
    scored = ", ".join(f"{task} {n} of {data['of'][task]}" for task, n in data["examples"].items())
    threads = words.count(data["threads"], "thread")
    of = f"{sum(data['examples'].values())} of {sum(data['of'].values())} examples"
    seconds, whole = data["seconds"], data["whole_seconds"]
    lines = [f"one candidate on {of}, {threads}: {seconds:.3g} s; on all of them about {whole:.3g} s ({scored})"]
    lines.append(
        f"  merge            {merge['seconds']:8.3f} s  {merge['share']:4.0%}   {_giga(merge['bytes_per_second'])}B/s, "
        f"{merge['of_limit']:.0%} of this machine's {_giga(limits['bytes_per_second'])}B/s (triad)"
    )
    if forward["passes"]:
        lines.append(
            f"  forward passes   {forward['seconds']:8.3f} s  {forward['share']:4.0%}   "
            f"{_giga(forward['operations_per_second'])}FLOP/s, {forward['of_limit']:.0%} of this machine's "
            f"{_giga(limits['operations_per_second'])}FLOP/s (matrix product); {forward['passes']} passes, "
            f"{forward['positions']} tokens with padding"
        )
    tasks = ", ".join(f"{task} {seconds:.3g} s" for task, seconds in data["tasks"].items())
    lines.append(f"  around them      {around['seconds']:8.3f} s  {around['share']:4.0%}")
    lines.append(f"  by task, forward passes included: {tasks}")
    step = data["gradient_step"]
    if step is not None:
        lines.append(
            f"a gradient step on {step['examples']} examples: {step['seconds']:.3g} s: merge {step['merge']:.0%}, "
            f"forward {step['forward']:.0%}, backward and contraction {step['backward']:.0%}"
        )
    study = data["study"]
    if study is not None:
        stages = ", ".join(f"{stage} {share:.0%}" for stage, share in study["stages"].items())
        lines.append(
            f"the study so far: {study['seconds']:.0f} s, {words.count(study['workers'], 'worker')} busy for "
            f"{study['busy']:.0%} of it: {stages}"
        )
    return [*lines, *(f"to change: {text}." for text in data["suggestions"])]


def _giga(value: float) -> str:
    return f"{value / 1e9:.3g} G"
