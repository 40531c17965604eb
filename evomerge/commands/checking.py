"""`evomerge check`: everything that can be known before anything is spent."""

from collections.abc import Mapping
from typing import Any

from evomerge import launch
from evomerge.config import ConfigError, SearchConfig


def check_search(config: SearchConfig) -> tuple[dict[str, Any], list[str]]:
    """What a search file amounts to, as plain data and as lines for people.

    Raises ConfigError for files that are not there, and whatever `launch.prepare` raises.
    """
    missing = config.missing_files()
    if missing:
        raise ConfigError("These files are not there:\n" + "\n".join(missing))
    plan = launch.prepare(config)
    n_baselines = sum(trial.merge is not None for trial in plan.planned)
    data = {
        "method": config.method.kind,
        "space": config.space.kind,
        "optimizer": config.optimizer.kind,
        "experts": [model.name for model in config.experts],
        "dimension": plan.dimension,
        "coefficients": list(plan.names),
        "examples": {task: dict(counts) for task, counts in plan.examples.items()},
        "planned": [trial.label for trial in plan.planned],
        "baselines": n_baselines,
        "model_bytes": plan.model_bytes,
        "notes": list(plan.notes),
    }
    lines = [
        f"{config.method.kind} of {len(config.experts)} experts, {plan.model_bytes / 1e9:.3g} GB each",
        f"{plan.dimension} coefficients to search ({config.space.kind}), optimizer {config.optimizer.kind}",
        *(f"task {task}: {_counts(counts)} examples" for task, counts in plan.examples.items()),
        f"first trials: {', '.join(trial.label for trial in plan.planned)}",
        _baselines(n_baselines, config.budget.trials),
        *(f"note: {note}" for note in plan.notes),
    ]
    return data, lines


def _baselines(count: int, trials: int | None) -> str:
    """What of the budget is spent before the search proper."""
    canary = "the canary, which tries whether coefficients change anything, is not counted"
    if trials is None:
        return f"{count} baselines count as trials; {canary}"
    short = "" if trials > count + 1 else ": none is left to search with, give it a larger budget"
    return f"{min(count, trials)} of the {trials} trials are baselines{short}; {canary}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())
