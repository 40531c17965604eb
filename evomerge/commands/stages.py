"""`evomerge search` of a file with stages: searches in a row, each winner exported for the stages that use it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from evomerge.commands.search import run_search
from evomerge.config import Stage, load_stages
from evomerge.errors import DONE
from evomerge.export import export
from evomerge.launch.launch import open_study
from evomerge.launch.plan import prepare
from evomerge.results.result import Selection
from evomerge.run import Run
from evomerge.study.lines import FILE


def run_stages(
    stages: Sequence[Stage],
    file: Path,
    console: Console,
    *,
    resume: bool,
    as_json: bool,
    trackers: Mapping[str, str] | None = None,
    menu: Callable[[Path, Selection], None] | None = None,
) -> int:
    """Run or resume the searches of a file; return the exit code of the last one that ran.

    All of them are checked before the first one begins. A winner is exported once. menu: as in `run_search`, after the
    last one. Raises StudyExists without `resume`
    if any stage has begun.
    """
    for stage in stages:
        plan = prepare(stage.config)
        if not resume and (stage.config.study / FILE).exists():
            open_study(stage.config, plan, resume=False).close()  # raises, and says how to go on
    for name in [stage.name for stage in stages]:
        # Read again: the winners of the stages before exist by now.
        stage = next(each for each in load_stages(file, files=True) if each.name == name)
        last = menu if name == stages[-1].name else None
        code = run_search(stage.config, console, resume=resume, as_json=as_json, trackers=trackers, menu=last)
        if code != DONE:
            return code
        if stage.winner is not None and not stage.winner.exists():
            export.export(export.choose(Run(stage.config.study)), stage.winner)
    return DONE
