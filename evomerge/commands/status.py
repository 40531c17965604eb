"""`evomerge status`: state of a study, with its result once it is done."""

from typing import Any

from rich.console import Group
from rich.text import Text

from evomerge.report import status
from evomerge.report.plot import plot_progress
from evomerge.results.as_json import selection_to_dict
from evomerge.run import Run
from evomerge.study.lines import no_collection


@no_collection()
def study_status(run: Run, *, plot: bool) -> tuple[dict[str, Any], Group]:
    """Show the status of a study, as plain data and as text."""
    data = status.status(run)
    parts = [status.render(data)]
    if data["state"] == "done":
        from evomerge.report import standings  # of a result; a search that goes on has none

        data["result"] = selection_to_dict(run.selection)
        parts.append(standings.render(run.selection))
    if plot:
        data["picture"] = str(plot_progress(run))
        parts.append(Group(Text(f"picture: {data['picture']}")))
    return data, Group(*parts)
