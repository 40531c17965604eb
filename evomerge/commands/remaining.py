"""Remaining work of a search file whose study has begun."""

import shlex
from pathlib import Path
from typing import Any

from evomerge.budget import candidates
from evomerge.config import SearchConfig
from evomerge.feedback import replay
from evomerge.launch import launch
from evomerge.launch.placement import placement
from evomerge.launch.plan import Plan, begun, build_optimizer
from evomerge.report.status import state_of
from evomerge.study import Study
from evomerge.study.writer import is_being_written


def remaining(config: SearchConfig, plan: Plan, file: Path) -> tuple[dict[str, Any], str]:
    """Describe the remaining work as plain data and as text: the command to continue with, or why nothing is left.

    Data: state (`new`, else that of `evomerge status`), told (candidates), left (whether a resume does anything).
    """
    command = f"evomerge search {shlex.quote(str(file))}"
    study = begun(config)
    if study is None:
        searches = config.budget.trials is None or plan.n_proposed(config.budget.trials) > 0
        ready = "Ready" if searches else "Ready, but the budget covers baselines only (see the last note)"
        return {"state": "new", "told": 0, "left": True}, f"{ready}: {command}"
    told, state, trials = candidates(study), state_of(study), config.budget.trials
    if state == "open" and is_being_written(config.study):
        return {"state": "running", "told": told, "left": False}, f"It is running: evomerge status {config.study}"
    data = {"state": state, "told": told, "left": True}
    of = f"{told} trials" if trials is None else f"{told} of {trials} trials"
    optimizer = build_optimizer(config, plan)
    workers = 1 if config.executor == "serial" else placement(config, plan.needs)[0]
    if launch.budget(config).spent(study, lambda: launch.time_after(plan, optimizer, study, lambda: workers)):
        if state != "done":
            return (
                data,
                f"Ready: {command} --resume finishes the study: its budget is spent ({of}), but its result is missing",
            )
        more = "budget.hours" if trials is None or told < trials else "budget.trials"
        return data | {"left": False}, (
            f"Nothing is left to do: the budget is spent ({of}) and the winner selected. "
            f"To continue the search, raise {more} and run {command} --resume; "
            "for a new search choose another `study` folder."
        )
    if state == "done" and not _wants_more(config, plan, study):
        return data | {"left": False}, (
            f"Nothing is left to do: {config.optimizer.kind} needs no more trials ({of}) and the winner is selected. "
            "For a new search choose another `study` folder."
        )
    return data, f"Ready: {command} --resume continues ({of} so far)"


def _wants_more(config: SearchConfig, plan: Plan, study: Study) -> bool:
    optimizer = build_optimizer(config, plan)
    replay(study, optimizer, plan.objective)
    return optimizer.wants({})
