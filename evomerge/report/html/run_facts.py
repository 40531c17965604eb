"""Cost, failures and configuration of a study, and the follow-up commands."""

import shlex
from typing import Any

from evomerge.plugins import PluginSpec
from evomerge.report import status, words
from evomerge.report.snapshot import stages_of
from evomerge.run import Run
from evomerge.study import SEARCH_FILE, Study


def failures(study: Study) -> list[dict[str, Any]]:
    """Return the kinds of failures, most frequent first, each with its count and first message."""
    found: dict[str, dict[str, Any]] = {}
    for entry in study.ended:
        failure = None if entry.outcome is None else entry.outcome.failure
        if failure is not None:
            fresh = {"kind": failure.kind, "count": 0, "number": entry.trial.number, "message": failure.message}
            item = found.setdefault(failure.kind, fresh)
            item["count"] += 1
    return sorted(found.values(), key=lambda item: -item["count"])


def truncated(study: Study) -> list[dict[str, Any]]:
    """Return, for every task with generated answers, how many the length limit cut, and the worst trial."""
    found: dict[str, dict[str, Any]] = {}
    for entry in study.told:
        for task, scores in (entry.outcome.scores if entry.outcome else {}).items():
            if scores.truncated is None:
                continue
            item = found.setdefault(task, {"task": task, "cut": 0, "generations": 0, "worst": None, "worst_share": 0.0})
            item["cut"] += scores.truncated
            item["generations"] += len(scores.values)
            share = scores.truncated / max(1, len(scores.values))
            if share > item["worst_share"]:
                item |= {"worst": entry.trial.number, "worst_share": share}
    return list(found.values())


def cost(study: Study) -> dict[str, Any]:
    """Return the workers' seconds by stage and by worker; the rest of the search's time is waiting."""
    workers: dict[str, dict[str, Any]] = {}
    for outcome in (entry.outcome for entry in study.ended if entry.outcome is not None):
        if not outcome.worker:  # a copy of known scores, which no worker made
            continue
        worker = workers.setdefault(outcome.worker, {"trials": 0, "seconds": 0.0})
        worker["trials"] += 1
        worker["seconds"] += sum(outcome.seconds.values())
    return {"seconds": study.active_seconds, "stages": stages_of(study, len(workers)), "workers": workers}


def commands(study: Study, winner: str | None) -> list[dict[str, str]]:
    """Return the follow-up commands."""
    folder = study.folder.absolute()
    export = status.export_command(folder)
    again = "Repeat the search from scratch in another folder: change `study:` in a copy of"
    made = [
        ("Write the winner as a checkpoint", f"{export} -o merged"),
        ("Write only its recipe", f"{export} --recipe-only -o recipe.yaml"),
        ("Reproduce the weights from the recipe", "evomerge merge recipe.yaml -o merged"),
    ]
    shown = made if winner else [("Resume the search", status.resume_command(folder))]
    shown = [*shown, (again, shlex.quote(str(folder / SEARCH_FILE)))]
    return [{"what": what, "command": command} for what, command in shown]


def study_data(run: Run) -> dict[str, Any]:
    """Return the configuration and state of a search; counts as in `evomerge status`."""
    said, objective = run.study.configuration, run.objective
    told = status.status(run)
    return {
        "folder": str(run.folder.absolute()),
        "name": run.folder.absolute().name,
        "state": told["state"],
        "paused_because": told["paused_because"],
        "told": told["told"],
        "spent": status.spent(told),
        "pending": told["pending"],
        "failed": told["failed"],
        "objective": said.get("objective", "mean"),
        "tasks": [
            {
                "name": task,
                "weight": weight,
                "lower_is_better": task in objective.lower_is_better,
                "smooth": objective.unit(task),
            }
            for task, weight in objective.weights.items()
        ],
        "plugins": {name: _kinds(said[name]) for name in ("method", "space", "optimizer") if name in said},
        "smooth": words.smooth_notes(objective),
        "seed": said.get("seed"),
        "experts": list(said.get("experts", {})),
        "events": told["events"],
    }


def _kinds(given: Any) -> str:
    """Return the name of a plug-in, or the names of several methods that the search chooses from."""
    return " or ".join(PluginSpec.read(each).kind for each in (given if isinstance(given, list) else [given]))
