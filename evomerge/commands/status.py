"""`evomerge status`: what a study has come to; with its result once it is done."""

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from evomerge.objective.spec import objective_of_study
from evomerge.report import standings, status
from evomerge.report.plot import plot_progress
from evomerge.results import selection
from evomerge.study import Study


def study_status(run: Path, *, plot: bool) -> tuple[dict[str, Any], Group]:
    """The status of the study in `run`, as plain data and for people. Raises StudyError when there is none."""
    study = Study.read(run)
    data = status.status(study)
    parts = [status.render(data)]
    if data["state"] == "done":
        parts.append(_add_result(study, data))
    if plot:
        data["picture"] = str(plot_progress(study))
        parts.append(Group(Text(f"picture: {data['picture']}")))
    return data, Group(*parts)


def _add_result(study: Study, data: dict[str, Any]) -> Group:
    result = selection(study, objective_of_study(study))
    data["result"] = standings.selection_to_dict(result)
    return standings.render(result)
