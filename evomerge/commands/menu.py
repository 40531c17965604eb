"""The menu at the end of a search in a terminal; each entry shows and runs an ordinary command."""

from collections.abc import Callable, Iterator
from pathlib import Path

from evomerge.commands import subcommand
from evomerge.results.result import Selection

_TITLE = """
  c  chat with the winner beside its best parent
  d  compare two models, example by example
  r  open the report
  e  export the winner
  p  publish the winner on the Hugging Face hub
  q  quit"""


def show_menu(
    folder: Path,
    selection: Selection,
    ask: Callable[[str], str],
    say: Callable[[str], None],
    run: Callable[[tuple[str, ...]], int] = subcommand.run,
) -> None:
    """Offer what can be done with the result of a run, until the answer is q or the input ends.

    ask: asks a question and returns the answer. run: runs a command of evomerge and returns its exit code.
    """
    answer = ""
    while answer not in ("q", "quit"):
        try:
            say(_TITLE)
            answer = ask("Next").strip().lower()
            for arguments in _commands(answer, folder, selection, ask):
                say(f"$ {subcommand.shown(arguments)}")
                code = run(arguments)
                if code:
                    say(f"(exit code {code})")
                    break
        except (EOFError, KeyboardInterrupt):
            say("")
            return


def _commands(answer: str, folder: Path, selection: Selection, ask: Callable[[str], str]) -> Iterator[tuple[str, ...]]:
    """Yield the commands of an entry, and ask for what they lack."""
    run = str(folder)
    parent = _best_parent(selection)
    if answer == "c":
        yield "chat", run, *(() if parent is None else ("--beside", parent))
    elif answer == "d":
        first = ask("First model, a trial's number or a label [winner]") or "winner"
        other = parent or selection.models[-1].label
        yield "compare", run, first, ask(f"Second model [{other}]") or other
    elif answer == "r":
        yield "report", run, "--open"
    elif answer == "e":
        yield from _export(run, ask("Folder [merged]") or "merged")
    elif answer == "p":
        merged = ask("Folder of the export [merged]") or "merged"
        yield from _export(run, merged)
        repository = ask("ORG/NAME on the hub; nothing is sent yet")
        license_ = ask("License, such as apache-2.0 [undecided]")
        yield "publish", merged, "--repo", repository, *(("--license", license_) if license_ else ())


def _export(run: str, folder: str) -> Iterator[tuple[str, ...]]:
    """Yield the command that exports the winner, unless there is such a folder."""
    if not Path(folder).exists():
        yield "export", run, "-o", folder


def _best_parent(selection: Selection) -> str | None:
    """Return the label of the parent with the best score on the report split; None where none was scored."""
    parents = {model.label for model in selection.models if model.is_parent and model.label != selection.winner.label}
    return next((model.label for model in selection.models if model.label in parents), None)
