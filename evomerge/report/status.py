"""Status of a study: its state, best merge, baselines, failures, time by stage, and how to resume."""

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.config import ConfigError
from evomerge.report import words
from evomerge.report.snapshot import take
from evomerge.results.as_json import estimate_of, so_far_to_dict
from evomerge.results.coordinates import methods_of
from evomerge.results.methods import best_by_method
from evomerge.results.progress import SearchFront, hypervolume_after
from evomerge.results.range_ends import ends_text, n_searched, range_ends
from evomerge.results.ranking import Ranking
from evomerge.results.scored import ScoredModel
from evomerge.run import Run
from evomerge.study import SEARCH_FILE, Study
from evomerge.study.study import LEARNED_FROM
from evomerge.study.writer import is_being_written
from evomerge.trial import Origin, number_in


def status(run: Run) -> dict[str, Any]:
    """Return the status of a study as plain data; its state is from `state_of`, or `running`.

    `next` is the command that resumes it, None while it runs and when it is done.
    """
    study, snapshot = run.study, take(run)
    failed = [e for e in study.ended if e.outcome is not None and e.outcome.failure is not None]
    last = failed[-1].outcome.failure if failed and failed[-1].outcome is not None else None
    state = state_of(study)
    if state == "open" and is_being_written(study.folder):
        state = "running"
    shown = snapshot.as_dict()
    return {
        "state": state,
        **{key: value for key, value in shown.items() if key not in _LIVE_ONLY},
        "front": None if snapshot.front is None else shown["front"] | _front(run, snapshot.front),
        **_methods(run),
        **_learned(study),
        "pending": len(study.unfinished),
        "budget": _budget(run),
        "failed": len(failed),
        "last_failure": None if last is None else {"kind": last.kind, "message": last.message},
        "paused_because": _reason(study) if state == "paused" else None,
        "range_ends": _range_ends(run, snapshot.best),
        **run.partial,
        "selected": run.selected,
        "selected_is": origin(study, run.selected),
        "events": dict(sorted(Counter(kind for kind, _ in study.events).items())),
        "next": None if state in ("done", "running") else resume_command(study.folder),
    }


def _budget(run: Run) -> int | None:
    """Return the evaluations that the search file allows; None without a limit, and where it cannot be read."""
    try:
        return run.config.budget.trials
    except ConfigError:
        return None


def spent(data: Mapping[str, Any]) -> str:
    """Return what a search with partial trials has spent, of its budget; nothing for one of whole trials."""
    besides = words.partial(data)
    return ", ".join([words.evaluations(data["evaluations"], data["budget"]), *besides]) if besides else ""


def state_of(study: Study) -> str:
    """Return the state of a study: `done`, `paused` by a fault, `stopped` by hand, or `open` (running or killed)."""
    kinds = [kind for kind, _ in study.events]
    session = kinds[max((n for n, kind in enumerate(kinds) if kind == "opened"), default=0) :]
    for kind in reversed(session):
        if kind in ("paused", "stopped"):
            return kind
    reported = [entry for entry in study.entries.values() if entry.trial.split == "report"]
    return "done" if reported and not study.pending and "report_split_read" in kinds else "open"


def origin(study: Study, label: str | None) -> str:
    """Explain a winner whose trial number exceeds the budget; empty for any other."""
    number = number_in(label or "")
    entry = None if number is None else study.entries.get(number)
    if entry is None or entry.trial.origin is not Origin.RECOMMENDED:
        return ""
    return "the point that the optimizer recommends at its end, scored once more than the budget counts"


def _range_ends(run: Run, best: ScoredModel | None) -> str:
    """Say which coordinates of the winner, or else of the best merge, lie at an end of their ranges; empty if none."""
    winner = run.selected
    selected = [entry.trial for entry in run.study.entries.values() if entry.trial.label == winner]
    trial = selected[-1] if selected else None if best is None else best.trial
    return (
        ""
        if trial is None or trial.x is None
        else ends_text(range_ends(run.study, trial.x), n_searched(run.study, trial.x))
    )


def resume_command(folder: Path) -> str:
    """Return the command that resumes the study in `folder`."""
    return f"evomerge search {shlex.quote(str(folder / SEARCH_FILE))} --resume"


def finish_command(folder: Path) -> str:
    """Return the command that ends the study in `folder` with the candidates that it has."""
    return f"evomerge finish {shlex.quote(str(folder))}"


def export_command(folder: Path) -> str:
    """Return the command, without options, that exports from the study in `folder`."""
    return f"evomerge export {shlex.quote(str(folder))}"


def render(data: Mapping[str, Any]) -> Group:
    """Render the status as text. data: from `status`."""
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    for name, value in _rows(data):
        rows.add_row(Text(name), Text(value))
    parts: list[RenderableType] = [rows, *_models(data)]
    if data["front"]:
        parts.append(
            Text("Scores are from the search split; expect a front selected from many candidates to be optimistic.")
        )
    elif data["best"] or data["baselines"]:
        parts.append(
            Text("Scores are from the search split, with 95 % intervals; expect the best of many to be optimistic.")
        )
    parts += [Text(line) for line in words.meaning((data["best"] or {}).get("decisive", ()))]
    if data["next"] is not None:
        parts.append(Text(f"\nTo resume: {data['next']}"))
    return Group(*parts)


#: Explanations of states whose names are not enough.
_STATES = {
    "running": " (a process is running it)",
    "open": " (no process on this machine is writing to it: the last one was killed, or runs on another machine)",
}
_LIVE_ONLY = ("phase", "trials", "busy", "slots", "seconds_left")


def _models_of(run: Run) -> tuple[ScoredModel, ...]:
    return Ranking(run.study, run.objective, "search").models


def _methods(run: Run) -> dict[str, Any]:
    """Return the best candidate of each method, where the search chooses from several."""
    if methods_of(run.study) is None:
        return {}
    return {"methods": [so_far_to_dict(best) | {"candidates": n} for best, n in best_by_method(_models_of(run))]}


def _learned(study: Study) -> dict[str, Any]:
    """Return from which earlier studies the search learned when it began; nothing where there are none."""
    runs = next((data["runs"] for kind, data in study.events if kind == LEARNED_FROM), None)
    return {} if runs is None else {"learned_from": list(runs)}


def _of_run(run: Mapping[str, Any]) -> str:
    """Format what was learned from an earlier study."""
    if run["differences"]:
        return f"{run['run']} (only where to begin: {'; '.join(run['differences'])})"
    return f"{run['run']} ({words.count(run['observations'], 'candidate')} as observations)"


def _of_method(best: Mapping[str, Any]) -> str:
    """Format the best candidate of a method, of which `candidates` were scored."""
    return f"{words.score(best)} ({best['name']}, the best of {words.count(best['candidates'], 'candidate')})"


def _front(run: Run, front: SearchFront) -> dict[str, Any]:
    """Return the candidates on the front by number, and the hypervolume by number of candidates."""
    models = _models_of(run)
    return {
        "numbers": [model.number for model in front.candidates],
        "hypervolume_after": [{"candidates": n, "hypervolume": volume} for n, volume in hypervolume_after(models)],
    }


def _rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    failed = f" ({data['failed']} failed)" if data["failed"] else ""
    trials = f"{data['told']} completed{failed}, {data['pending']} pending"
    state = data["state"] + _STATES.get(data["state"], "")
    rows = [("study", data["study"]), ("state", state), ("trials", trials)]
    if spent(data):
        rows.append(("spent", spent(data)))
    rows += [("numbers", text) for text in words.numbers(data["numbered"], data["told"] + data["pending"])]
    if data["paused_because"]:
        rows.append(("reason", data["paused_because"]))
    rows += [("learned from", _of_run(run)) for run in data.get("learned_from", ())]
    rows += leading_rows(data)
    rows += [(f"by {each['method']}", _of_method(each)) for each in data.get("methods", ())]
    if data["selected"]:
        origin_ = f" ({data['selected_is']})" if data["selected_is"] else ""
        rows.append(("selected", data["selected"] + origin_))
    if data["range_ends"]:
        rows.append(("ranges", f"{'the winner' if data['selected'] else 'the best merge'} is {data['range_ends']}"))
    rows += [("decided", text) for text in data["decisions"]]
    rows.append(("time", words.duration(data["seconds"])))
    if data["stages"]:
        rows.append(("stages", words.shares(data["stages"])))
    if data["failures"]:
        rows.append(("failures", words.counts(data["failures"])))
        rows.append(("last failure", f"{data['last_failure']['kind']}: {data['last_failure']['message']}"))
    return rows


def leading_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return rows with the best merges so far, or the front, for the status and the live table.

    data: from `Snapshot.as_dict`.
    """
    rows, best, searched, front = [], data["best"], data["best_candidate"], data["front"]
    if best:
        beside = words.beside(best, data["baselines"], data["better_baselines"])
        rows.append(("best merge", f"{words.score(best)} ({best['name']}{beside})"))
        if searched is not None and searched["number"] != best["number"]:
            rows.append(("best candidate", f"{words.score(searched)} ({searched['name']})"))
        if data["gain"]:
            gain = words.signed(lead := estimate_of(data["gain"]), words.digits_of(lead))
            rows.append(("gain", f"{gain} over the best parent, {data['gain']['over']}, on the search split"))
        if "ahead_of_best_parent" in best:
            rows.append(("against parents", words.gains(best["ahead_of_best_parent"])))
    if front:
        rows.append(("front", words.front(front["size"], front["candidates"], front["hypervolume"])))
        past = [f"{p['hypervolume']:.4g} after {p['candidates']}" for p in front.get("hypervolume_after", ())[:-1]]
        rows += [("hypervolume", f"by number of candidates: {', '.join(past)}")] if past else []
        rows += [(f"best merge on {task}", _best_on_task(best)) for task, best in front["best"].items()]
    return rows


def _best_on_task(best: Mapping[str, Any]) -> str:
    """Format the best merge on a task of a Pareto search, from `search_front_to_dict`."""
    gain = "" if best["ahead"] is None else f", {best['ahead']:+.3g} against the best parent"
    return f"{best['score']:.4g} ({best['name']}{gain})"


def _models(data: Mapping[str, Any]) -> list[Table]:
    """Return a table of the best merge, best candidate and baselines by task; none before a model is scored."""
    leading = {each["number"]: each for each in (data["best"], data["best_candidate"]) if each is not None}
    models = [*leading.values(), *(each for each in data["baselines"] if each["number"] not in leading)]
    if not models:
        return []
    tasks, scored = list(models[0]["tasks"]), models[0]["score"] is not None
    digits = words.column_digits(estimate_of(model, "score") for model in models) if scored else 3
    table = Table(pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ([] if len(tasks) == 1 and scored else tasks) + (["score"] if scored else []):
        table.add_column(Text(name), justify="right", overflow="fold")
    for model in models:
        means = [] if len(tasks) == 1 and scored else [words.task_mean(model["tasks"][task]) for task in tasks]
        table.add_row(*map(Text, [model["name"], *means, *([words.score(model, digits)] if scored else [])]))
    return [table]


def _reason(study: Study) -> Any:
    return next((data.get("reason") for kind, data in reversed(study.events) if kind == "paused"), None)
