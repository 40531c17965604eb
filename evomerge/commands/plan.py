"""`evomerge plan`: estimates of time, memory, disk and statistical power."""

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.base import Scores
from evomerge.budget import stage_seconds
from evomerge.commands.partial_trials import memory_line, partial_lines, partial_trials
from evomerge.commands.power import detectable_differences, power_lines
from evomerge.commands.remaining import remaining
from evomerge.config import SearchConfig
from evomerge.feedback import replay
from evomerge.launch.cluster import describe
from evomerge.launch.limits import selection_count
from evomerge.launch.plan import Plan, begun, build_optimizer, build_race, prepare, resumed
from evomerge.launch.probe import probe
from evomerge.optimizers.base import Optimizer
from evomerge.report import words
from evomerge.resident.free_memory import available_memory
from evomerge.results.cost import selection_seconds
from evomerge.results.signal import signals_to_list, weak
from evomerge.study import Study
from evomerge.text.sizes import size
from evomerge.trial import START, UNIFORM, Trial

#: Bytes that a value takes in the ledger: a number and its comma, and as much again for log-likelihoods.
_BYTES_PER_VALUE = 40


@dataclass(frozen=True)
class Evidence:
    """Measurements on the search split: scores of models, and seconds by stage of a candidate, see `Outcome`.

    source: their origin. baselines: scores of parents and baselines, and of the start where there are few. start:
    seconds until the first baselines are scored; 0 for a study that has begun.
    """

    stages: Mapping[str, float]
    scores: Mapping[str, Mapping[str, Scores]]
    source: str
    baselines: Sequence[Mapping[str, Scores]]
    start: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of a candidate, all stages together."""
        return sum(self.stages.values())

    @property
    def by_metric(self) -> dict[str, dict[str, Scores]]:
        """The scores by the tasks' metrics."""
        return {model: {task: found.by_metric for task, found in each.items()} for model, each in self.scores.items()}


def plan_search(
    config: SearchConfig,
    file: Path,
    *,
    measure: bool,
    say: Callable[[str], None] = lambda _: None,
    since: float | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Estimate what a search takes, as plain data and as lines of text.

    measure: whether to start its workers and score candidates for it; if the study has begun, its own trials are used.
    since: `time.monotonic` at the start of the command, whose imports a search does, too; None for now.
    Raises the errors of `prepare` and `probe`.
    """
    since = time.monotonic() if since is None else since
    plan = prepare(config, say=say)
    cluster: dict[str, Any] | None = None
    where: list[str] = []
    workers, threads, gpus = 1, 1, 0.0
    if config.executor == "ray":
        (workers, threads, gpus), cluster, where = describe(config, plan.spec.recipe, plan.needs)
    study, last = remaining(config, plan, file)
    measured = _from_study(begun(config))
    if measured is None and measure:
        measured = _measured(config, plan, time.monotonic() - since, say)
    signal = [] if measured is None else signals_to_list(plan.objective, measured.baselines)
    data = {
        "coefficients": plan.space.dimension,
        "workers": {"count": workers, "threads": threads, "gpus": gpus},
        "cluster": cluster,
        "memory": _memory(plan, workers, gpus),
        "disk": _disk(config, plan),
        "time": _time(config, plan, workers, measured, study),
        "power": detectable_differences(
            plan.objective.by_metric,
            plan.distinct_examples,
            {} if measured is None else measured.by_metric,
            None if measured is None else measured.source,
        ),
        **partial_trials(config, plan),
        "signal": signal,
        "notes": [*plan.notes, *weak(signal)],
        "report_only": plan.n_report_only,
        "study": study,
    }
    return data, [*where, *_lines(data, config.optimizer.kind), *([] if study["state"] == "new" else [last])]


def _measured(config: SearchConfig, plan: Plan, prepared: float, say: Callable[[str], None]) -> Evidence:
    """Return what the workers of the search measure. prepared: seconds that the plan took."""
    found = probe(config, plan, say)
    candidate = sum(found.stages.values())
    # The canary is scored alone; then the other workers read weights and prompts while they score a baseline.
    late = max(0.0, found.first - candidate) if found.workers > 1 else 0.0
    workers = words.count(found.workers, "worker")
    source = f"{words.count(found.candidates, 'candidate')} scored now by {workers}"
    baselines = list(found.scores.values())
    return Evidence(found.stages, found.scores, source, baselines, prepared + found.ready + found.first + late)


def _from_study(study: Study | None) -> Evidence | None:
    if study is None:
        return None
    done = [e for e in study.told if e.outcome is not None and e.outcome.scores and e.trial.split == "search"]
    if len(done) < 2:
        return None
    stages = stage_seconds(study)
    known = {e.trial.label: e.outcome.scores for e in done if e.outcome is not None and _is_model(e.trial)}
    fixed = [e.outcome.scores for e in done if e.outcome is not None and e.losses and e.trial.merge is not None]
    return Evidence(stages, known, f"from the last trials of {study.folder}", fixed)


def _is_model(trial: Trial) -> bool:
    return trial.origin.is_parent or trial.label in (START, UNIFORM)


def _memory(plan: Plan, workers: int, gpus: float) -> dict[str, int]:
    """Return bytes: the workers' total with shared files, the shared files, the available memory."""
    available = available_memory()
    kept = plan.needs.room_to_keep(workers, available)
    return {
        "bytes": plan.needs.total(workers, kept),
        "shared_bytes": plan.needs.inputs,
        "available_bytes": available,
        "device_bytes_per_worker": plan.needs.device if gpus else 0,
    }


def _disk(config: SearchConfig, plan: Plan) -> dict[str, int]:
    values = sum(counts["search"] for counts in plan.examples.values())
    trials = config.budget.trials or 1000
    folder = next(parent for parent in (config.study, *config.study.absolute().parents) if parent.exists())
    return {
        "ledger_bytes": values * trials * _BYTES_PER_VALUE,
        "export_bytes": plan.needs.export,
        "free_bytes": shutil.disk_usage(folder).free,
    }


def _time(
    config: SearchConfig, plan: Plan, workers: int, measured: Evidence | None, study: Mapping[str, Any]
) -> dict[str, Any]:
    """Estimate the remaining seconds; None before any measurement and without a limit on trials."""
    trials = config.budget.trials
    baselines = plan.n_baselines
    searched = None if trials is None else max(0, trials - baselines)
    optimizer = build_optimizer(config, plan)
    count = selection_count(plan, optimizer, searched)
    models = {"select": count.select, "report": count.report}
    known: dict[str, Any] = {"source": None, "candidate_seconds": None, "start_seconds": None, "search_seconds": None}
    known |= {"selection_seconds": None, "selection_models": models}
    if measured is None:
        return known
    rounds = _rounds(config, plan, optimizer, workers, study) if study["left"] else 0.0
    more = sum(plan.n_report_only.values())
    after = selection_seconds(count, measured.stages, plan.examples, workers, more)
    return known | {
        "source": measured.source,
        "candidate_seconds": measured.seconds,
        "start_seconds": measured.start,
        "search_seconds": None if rounds is None else rounds * measured.seconds,
        "selection_seconds": after if study["left"] else 0.0,
    }


def _rounds(
    config: SearchConfig, plan: Plan, optimizer: Optimizer, workers: int, study: Mapping[str, Any]
) -> float | None:
    """Return how many evaluations follow each other until the search ends; None where only time limits it.

    Steps along gradients use one worker, everything else all of them.
    """
    trials, old = config.budget.trials, resumed(config, plan)
    left = math.inf if trials is None else max(0.0, trials - study["evaluations"])
    if old is not None:
        race, examples = build_race(config, plan), plan.search_examples
        replay(old, optimizer, plan.objective, race=race, examples=examples)
    steps = optimizer.evaluations_left()
    if steps is None:
        return None if trials is None else left / workers
    asked = set() if old is None else {entry.trial.label for entry in old.entries.values()}
    first = min(left, sum(trial.counts and trial.label not in asked for trial in plan.planned))
    return first / workers + min(left - first, steps)


def _lines(data: Mapping[str, Any], optimizer: str) -> list[str]:
    workers, disk, spent, shown = data["workers"], data["disk"], data["time"], data["power"]
    on = f"{workers['gpus']:g} GPU" if workers["gpus"] else f"{words.count(workers['threads'], 'core')}"
    staff = f"{words.count(workers['count'], 'worker')} with {on}{' each' * (workers['count'] > 1)}"
    free = size(disk["free_bytes"])
    lines = [
        f"{words.count(data['coefficients'], 'coefficient')}, {staff} of {words.count(os.cpu_count() or 1, 'core')}",
        _memory_line(data["memory"]) + memory_line(data),
        f"disk: ledger up to {size(disk['ledger_bytes'])}, an export {size(disk['export_bytes'])}, free {free}",
    ]
    lines += partial_lines(data, optimizer)
    if spent["source"] is None:
        lines.append("time: unknown until a candidate has been scored; --measure scores some")
    else:
        whole = spent["search_seconds"]
        search = "as long as the budget allows" if whole is None else f"about {words.duration(whole)}"
        start = f"start about {words.duration(spent['start_seconds'])}, " if spent["start_seconds"] else ""
        lines.append(
            f"time: {spent['candidate_seconds']:.3g} s per candidate ({spent['source']}); {start}search {search}, "
            f"selection about {words.duration(spent['selection_seconds'])}"
        )
    models = spent["selection_models"]
    lines.append(
        f"selection: at most {models['select']} models on the select split and {models['report']} on the report split; "
        "a budget of hours or `until` reserves time for it"
    )
    only = ", ".join(f"{task} {words.count(count, 'example')}" for task, count in data["report_only"].items())
    if only:
        lines.append(f"  reported only, on each of the latter: {only}, at the pace of the other tasks' examples")
    return [*lines, *power_lines(shown), *signal_lines(data["signal"]), *(f"note: {note}" for note in data["notes"])]


def signal_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the signal-to-noise ratios of the tasks; nothing while no models are scored."""
    if not rows:
        return []
    return [
        "signal to noise on the search split: largest difference between models over the standard error of one",
        *(f"  {row['task']}: {_ratio(row)}" for row in rows),
    ]


def _ratio(row: Mapping[str, Any]) -> str:
    ratio = "no noise" if row["ratio"] is None else f"{row['ratio']:.2g}"
    metric = "" if row["metric_ratio"] is None else f"; {row['metric_ratio']:.2g} by its metric"
    return f"{ratio} ({row['spread']:.2g} over {row['noise']:.2g}, {words.count(row['models'], 'model')}{metric})"


def _memory_line(memory: Mapping[str, int]) -> str:
    line = (
        f"memory: about {size(memory['bytes'])} of {size(memory['available_bytes'])} available, "
        f"{size(memory['shared_bytes'])} of it model files shared by all workers"
    )
    device = memory["device_bytes_per_worker"]
    return f"{line}; {size(device)} of GPU memory per worker, including copies of all models" if device else line
