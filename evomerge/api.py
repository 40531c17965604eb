"""The Python interface: `evomerge.search` and `evomerge.merge`."""

import signal
from collections.abc import Callable
from pathlib import Path

from evomerge.commands.merge import checked
from evomerge.config import SearchConfig, load_config
from evomerge.errors import PAUSED, SIGNAL, EvomergeError
from evomerge.launch import launch
from evomerge.launch.plan import prepare
from evomerge.loop import Ending, Progress
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.output.manifest import Manifest
from evomerge.merging.output.materialize import materialize
from evomerge.recipe import Merge
from evomerge.recipe.file import read_own
from evomerge.run import Run


class SearchPaused(EvomergeError):
    """A search that a fault paused. Its study is safe and can be resumed."""

    exit_code = PAUSED


def search(
    config: SearchConfig | Path | str,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Run a search to its end: search, select, report, as `evomerge search` does. Prints nothing by itself.

    Ctrl-C once lets running candidates finish and returns the unfinished run; twice raises KeyboardInterrupt at once.

    Args:
        config: The search file, or what `load_config` read from it.
        resume: Continue the study in the folder of the run, if there is one.
        progress: Called after each event with the study, the outcome of a trial if one has ended, and busy workers.
        say: Called with messages, e.g. `print`; notes about the models and tasks begin with `note:`.

    Returns:
        The run, opened for reading.

    Raises:
        SearchPaused: A fault paused the search.
        StudyExists: There is a study in the folder, and `resume` is false.
        EvomergeError: The models, tasks or search file cannot be used; a subclass, with the message of the command.

    Example:
        >>> import evomerge
        >>> run = evomerge.search("search.yaml", resume=True)
        >>> run.selected is not None
        True
    """
    if not isinstance(config, SearchConfig):
        config = load_config(config, files=True)
    plan = prepare(config, say=say)
    for note in plan.notes:
        say(f"note: {note}")
    ending, _ = launch.run(config, plan, resume=resume, progress=progress, say=say)
    _raise_for(ending, config.study)
    return Run(config.study)


def merge(
    recipe: Merge | Path | str,
    output: Path | str,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the weights of a recipe as a checkpoint that transformers loads, as `evomerge merge` does.

    Args:
        recipe: A recipe file, a mergekit configuration, or a merge such as `Run.recipe` returns.
        output: The folder to write.
        overwrite: Replace an earlier export in that folder.
        progress: Called with the bytes written so far and the bytes in total.

    Returns:
        The manifest: SHA-256 of every file that was read or written, and the versions that wrote them.

    Raises:
        EvomergeError: The recipe, a model or the folder cannot be used; a subclass, with the message of the command.

    Example:
        >>> import evomerge
        >>> recipe = evomerge.Run("runs/search").recipe()
        >>> list(evomerge.merge(recipe, "merged", overwrite=True).outputs)
        ['model.safetensors']
    """
    if not isinstance(recipe, Merge):
        recipe = _read(Path(recipe))
    return materialize(recipe, Path(output), overwrite=overwrite, progress=progress)


def _read(path: Path) -> Merge:
    own = read_own(path)
    return read_mergekit(path) if own is None else checked(own)


def _raise_for(ending: Ending, folder: Path) -> None:
    if ending.kind == "paused":
        raise SearchPaused(f"{ending.message} Resume the study in {folder} with resume=True.")
    if ending.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if ending.signal:  # the process was asked to end
        raise SystemExit(SIGNAL + ending.signal)
