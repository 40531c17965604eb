"""`evomerge finish`: which stopped searches can be ended early."""

from pathlib import Path

from evomerge.config import SearchConfig
from evomerge.report.status import resume_command
from evomerge.run import Run
from evomerge.study import Study, StudyError
from evomerge.study.writer import is_being_written


def has_scores(study: Study) -> bool:
    """Return whether there is anything to select from."""
    return any(entry.losses is not None and entry.trial.counts for entry in study.told)


def scored_run(folder: Path) -> SearchConfig:
    """Return the search of a run that can be finished: it does not run now, and has scores to select by.

    Raises StudyError, and ConfigError where the run's search file is not valid any more.
    """
    run = Run(folder)
    if is_being_written(folder):
        raise StudyError(
            f"The search in {folder} is running. Stop it with Ctrl-C in its terminal, or by SIGTERM; then finish it."
        )
    if not has_scores(run.study):
        raise StudyError(
            f"No candidate in {folder} has been scored on all search examples, so there is nothing to select from. To "
            f"go on searching: {resume_command(folder)}"
        )
    return run.config.model_copy(update={"study": folder})  # also where the folder was moved
