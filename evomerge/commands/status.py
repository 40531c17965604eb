"""`evomerge status`: state of a study, with its result once it is done."""

from typing import Any

from rich.console import Group
from rich.text import Text

from evomerge.report import standings, status
from evomerge.report.plot import plot_progress
from evomerge.results.as_json import selection_to_dict
from evomerge.run import Run


def study_status(run: Run, *, plot: bool) -> tuple[dict[str, Any], Group]:
    """The status of the study as plain data and for people."""
    data = status.status(run)
    parts = [status.render(data)]
    if data["state"] == "done":
        parts.append(_add_result(run, data))
    if plot:
        data["picture"] = str(plot_progress(run))
        parts.append(Group(Text(f"picture: {data['picture']}")))
    return data, Group(*parts)


def _add_result(run: Run, data: dict[str, Any]) -> Group:
    data["result"] = selection_to_dict(run.selection)
    return standings.render(run.selection)
