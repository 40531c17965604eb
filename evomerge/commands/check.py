"""`evomerge check`: validation of a search file before any merge or score."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from evomerge.commands.partial_trials import partial_lines, partial_trials
from evomerge.commands.remaining import remaining
from evomerge.config import SearchConfig, Stage
from evomerge.launch.cluster import describe
from evomerge.launch.plan import Plan, prepare
from evomerge.objective import Objective
from evomerge.objective.floor import keep_data
from evomerge.report import words
from evomerge.text.sizes import size


def check_search(
    config: SearchConfig, file: Path, *, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], list[str]]:
    """Summarize a search file and the remaining work of its study, as plain data and as lines of text.

    Raises ConfigurationChanged if the study belongs to another search, and the errors of `prepare`.
    """
    plan = prepare(config, say=say)
    study, last = remaining(config, plan, file)
    parts = partial_trials(config, plan)
    _, cluster, where = describe(config, plan.spec.recipe, plan.needs)
    data = {
        "method": next(iter(config.methods.values())).kind if len(config.methods) == 1 else list(config.methods),
        "space": config.space.kind,
        "space_used": plan.spec.space.kind,
        "optimizer": config.optimizer.kind,
        "objective": {
            "kind": plan.objective.kind,
            "weights": dict(plan.objective.weights),
            "keep": keep_data(plan.objective.keep),
            "lower_is_better": [task for task in plan.objective.weights if task in plan.objective.lower_is_better],
            "smooth": dict(plan.objective.smooth),
        },
        "experts": [model.name for model in config.experts],
        "dimension": plan.space.dimension,
        "coefficients": list(plan.space.names),
        "examples": {task: dict(counts) for task, counts in plan.examples.items()},
        "distinct_examples": {task: dict(counts) for task, counts in plan.distinct_examples.items()},
        "report_only": plan.n_report_only,
        "learn_from": [] if plan.learning is None else [dict(run) for run in plan.learning.runs],
        "planned": [trial.label for trial in plan.planned],
        "baselines": plan.n_baselines,
        "proposed": None if config.budget.trials is None else plan.n_proposed(config.budget.trials),
        "model_bytes": plan.model_bytes,
        **parts,
        "cluster": cluster,
        "notes": list(plan.notes),
        "previews": {task: list(shown) for task, shown in plan.previews.items()},
        "study": study,
    }
    lines = [
        f"{' or '.join(config.methods)} of {len(config.experts)} experts, {size(plan.model_bytes)} each",
        *_checkpoints(config),
        f"{plan.space.dimension} coefficients to search ({_space(config, plan)}), optimizer {config.optimizer.kind}",
        *chain.from_iterable(_task(plan, task) for task in (*plan.examples, *plan.n_report_only)),
        f"objective {_objective(plan.objective)}",
        *_first(plan, config, begun=study["state"] != "new"),
        *partial_lines(parts, config.optimizer.kind),
        *where,
        *(f"note: {note}" for note in plan.notes),
        last,
    ]
    return data, lines


def check_stages(
    stages: Sequence[Stage], file: Path, *, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], list[str]]:
    """Summarize the stages of a search file. A winner that does not exist yet is represented by a base.

    Raises as `check_search` does.
    """
    data: dict[str, Any] = {"stages": {}}
    lines: list[str] = []
    for stage in stages:
        found, said = check_search(stage.config, file, say=say)
        data["stages"][stage.name] = {**found, "waits_for": list(stage.waits_for)}
        waits = f", after {', '.join(stage.waits_for)}" if stage.waits_for else ""
        lines += [f"stage {stage.name}{waits}:", *(f"  {line}" for line in said[:-1])]
    return data, [*lines, f"Ready: evomerge search {file}"]


def _space(config: SearchConfig, plan: Plan) -> str:
    """Return the name of the space, with the one that `auto` stands for."""
    used = plan.spec.space.kind
    return used if config.space.kind == used else f"{config.space.kind}: {used}"


def _task(plan: Plan, task: str) -> list[str]:
    """List a task's numbers of examples and its first example."""
    shown = plan.previews.get(task, ())
    title = ["  first example (| marks the end of a token):"] if shown else []
    if task in plan.examples:
        counted = _examples(plan.objective, task, plan.examples[task])
    else:
        counted = _reported_only(plan, task)
    return [f"task {task}: {counted}", *title, *(f"    {line}" for line in shown)]


def _first(plan: Plan, config: SearchConfig, *, begun: bool) -> list[str]:
    """List the first trials, and describe how the budget divides; nothing for a study that has begun."""
    if begun:
        return []
    named = f"first trials: {', '.join(trial.label for trial in plan.planned)}"
    canary = "the canary, a check that coefficients change the outputs, does not count"
    first = plan.named_first
    trials = config.budget.trials
    if trials is None:
        return [named, f"{first} count as trials; {canary}"]
    left = f"which leaves {plan.n_proposed(trials)} of {trials} trials to {config.optimizer.kind}"
    return [named, f"{first} come first, {left}; {canary}"]


def _examples(objective: Objective, task: str, counts: Mapping[str, int]) -> str:
    better = ", less is better" if task in objective.lower_is_better else ""
    if task in objective.smooth:
        better = f"; searched by {objective.unit(task)}{better}, selected and reported by the metric"
    if task in objective.whole_model:
        return f"one value per model{better}"
    return ", ".join(f"{split} {count}" for split, count in counts.items()) + f" examples{better}"


def _reported_only(plan: Plan, task: str) -> str:
    objective = plan.report_only
    better = ", less is better" if objective is not None and task in objective.lower_is_better else ""
    whole = objective is not None and task in objective.whole_model
    said = "one value per model" if whole else words.count(plan.n_report_only[task], "example")
    return f"{said}{better}; reported only, neither searched nor selected on"


def _checkpoints(config: SearchConfig) -> list[str]:
    """Name the checkpoints of one run in training order, so that a wrong order is noticed."""
    names = [Path(path).name for path in config.checkpoints]
    return [f"checkpoints in training order: {', '.join(names)}; the last one is the base"] if names else []


def _objective(objective: Objective) -> str:
    """Format as `pareto, preferring one 2, two 1; constraints relative to the best parent: one -0.01, two 98%`."""
    weights = ", ".join(f"{task} {weight:g}" for task, weight in objective.weights.items())
    weighed = len(set(objective.weights.values())) > 1
    said = f"{', preferring' if objective.pareto else ' of'} {weights}" if weighed else ""
    kept = ", ".join(f"{task} {objective.asked(task)}" for task in objective.keep)
    return f"{objective.kind}{said}" + (f"; constraints relative to the best parent: {kept}" if kept else "")
