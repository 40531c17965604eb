"""What a search file has to say of trials that are no whole candidates: gradients and races, before any is spent."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from evomerge.config import SearchConfig
from evomerge.launch.growth import Added
from evomerge.launch.plan import Plan, build_optimizer, build_race
from evomerge.optimizers.base import Optimizer
from evomerge.racing import ENOUGH, LEVELS, OFF
from evomerge.search_examples import why_no_parts
from evomerge.text.sizes import size


def partial_trials(config: SearchConfig, plan: Plan) -> dict[str, Any]:
    """Describe gradients and races as plain data: None for what the optimizer never does.

    gradients: `no_loss` (task -> why it has no differentiable loss, None where it has one), `no_gradient` (why the
    merge has none), `evaluations` that the optimizer takes before it ends by itself (None: the budget ends it),
    `budget` that is left for them (None: unlimited), and `largest_tensor_bytes`. racing: `level`, None where candidates
    do not race, and `why_not`. decisions: what the optimizer has decided already. added: the examples that the study
    lacks so far: `examples` (task -> numbers on the search split before and now), `leaders` (names of the candidates to
    be scored on the added ones), `extends` (numbers of all trials to be), `evaluations` that this takes, and `text`.
    """
    optimizer = build_optimizer(config, plan)
    return {
        "gradients": _gradients(plan, optimizer, config.budget.trials) if optimizer.follows_gradients else None,
        "racing": _racing(config, plan),
        "decisions": list(optimizer.decisions()),
        "added": None if plan.added is None else _added(plan.added),
    }


def _added(added: Added) -> dict[str, Any]:
    return {
        "examples": {task: list(counts) for task, counts in added.counts.items()},
        "leaders": list(added.leaders),
        "extends": list(added.extends),
        "evaluations": added.evaluations,
        "text": added.text,
    }


def _gradients(plan: Plan, optimizer: Optimizer, trials: int | None) -> dict[str, Any]:
    return {
        "no_loss": {task.name: task.no_loss for task in plan.measures.tasks},
        "no_gradient": plan.measures.no_gradient,
        "evaluations": optimizer.evaluations_left(),
        "budget": None if trials is None else plan.n_proposed(trials),
        "largest_tensor_bytes": plan.needs.largest,
    }


def _racing(config: SearchConfig, plan: Plan) -> dict[str, Any] | None:
    if config.racing in (None, OFF) and config.optimizer.kind != "auto":
        return None
    if config.racing == OFF:
        return {"level": None, "why_not": "The search file says so."}
    race, total = build_race(config, plan), plan.search_examples.total
    if race is not None:
        return {"level": next(name for name, z in LEVELS.items() if z == race.z), "why_not": None}
    few = f"There are {total} search examples; `auto` races from {ENOUGH}, since little is saved with fewer."
    return {"level": None, "why_not": why_no_parts(plan.objective) or few}


def partial_lines(data: Mapping[str, Any], optimizer: str) -> list[str]:
    """Say in sentences what `partial_trials` gave. optimizer: its name."""
    found, race = data["gradients"], data["racing"]
    lines = [] if data["added"] is None else [data["added"]["text"]]
    lines += [f"{optimizer}: {text}" for text in data["decisions"]]
    if found is not None:
        lines += [f"no gradient on {task}: {why}" for task, why in found["no_loss"].items() if why is not None]
        if found["no_gradient"] is not None:
            lines.append(f"no gradients: {found['no_gradient']}")
        if found["evaluations"] is not None:
            named = ", ".join(task for task, why in found["no_loss"].items() if why is None)
            lines.append(
                f"gradients: on {named}; about {found['evaluations']:.0f} evaluations of the search split, checks "
                "included (a gradient counts three times its examples), then the search ends. The steps follow each "
                "other and use one worker"
            )
            if found["budget"] is not None and found["budget"] < found["evaluations"]:
                missing = ceil(found["evaluations"] - found["budget"])
                lines.append(
                    f"gradients: after the start and the baselines, the budget has {found['budget']} evaluations for "
                    f"them. The search stops then; to let it end by itself, add {missing} to `budget.trials`"
                )
    if race is not None:
        lines.append(f"racing: {race['level']}" if race["level"] else f"racing: off. {race['why_not']}")
    return lines


def memory_line(data: Mapping[str, Any]) -> str:
    """Say what gradients add to the memory of a worker; nothing where there are none."""
    found = data["gradients"]
    if found is None or found["no_gradient"] is not None or all(found["no_loss"].values()):
        return ""
    largest = size(found["largest_tensor_bytes"])
    return (
        f"; gradients add the activations of a batch and the gradient of a tensor, at most {largest}, and if memory "
        "runs out, activations are computed twice instead of kept"
    )
