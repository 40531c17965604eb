"""Remaining work of a search file whose study has begun."""

import shlex
from pathlib import Path
from typing import Any

from evomerge.budget import spending, spent_of
from evomerge.config import SearchConfig
from evomerge.launch.limits import finished, spent
from evomerge.launch.plan import Plan, resumed
from evomerge.report.status import state_of
from evomerge.study.writer import is_being_written


def remaining(config: SearchConfig, plan: Plan, file: Path) -> tuple[dict[str, Any], str]:
    """Describe the remaining work as plain data and as text: the command to continue with, or why nothing is left.

    Data: state (`new`, else that of `evomerge status`), told (`Study.completed`), evaluations (spent so far),
    left (whether to resume).
    """
    command = f"evomerge search {shlex.quote(str(file))}"
    study = resumed(config, plan)
    if study is None:
        searches = config.budget.trials is None or plan.n_proposed(config.budget.trials) > 0
        ready = "Ready" if searches else "Ready, but the budget covers baselines only (see the last note)"
        return {"state": "new", "told": 0, "evaluations": 0.0, "left": True}, f"{ready}: {command}"
    state, trials = state_of(study), config.budget.trials
    done = spending(study).evaluations
    data = {"state": state, "told": study.completed, "left": True, "evaluations": done}
    if state == "open" and is_being_written(config.study):
        running = f"It is running: evomerge status {config.study}"
        return data | {"state": "running", "left": False}, running
    nothing = finished(config, plan, study)
    if nothing is not None:
        return data | {"left": False}, f"Nothing is left to do: {nothing.text(f'run {command} --resume')}"
    of = spent_of(study, trials)
    if spent(config, plan, study):
        ends = f"finishes the study: its budget is spent ({of}), but its result is missing"
        return data, f"Ready: {command} --resume {ends}"
    added = 0.0 if plan.added is None else plan.added.evaluations
    short = trials is not None and added > 0 and done + added >= trials
    none = "; the added examples take all that is left, so raise budget.trials for new candidates" if short else ""
    return data, f"Ready: {command} --resume continues ({of} completed so far{none})"
