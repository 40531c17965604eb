"""`evomerge demo`: from tiny models that are trained here to a merge, with the ordinary commands."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evomerge.durable import write_text
from evomerge.errors import EvomergeError
from evomerge.own_packages import TINY_MODELS, folder_of

SEARCH_FILE, MODELS, RUN, MERGED = "search.yaml", "models", "run", "merged"


class DemoError(EvomergeError):
    """A folder that the demo cannot use."""


@dataclass(frozen=True)
class Step:
    """A command of the demo."""

    title: str
    arguments: tuple[str, ...]


def begin_demo(into: Path) -> None:
    """Write the search file; one that is there, from an earlier demo, stays as it is.

    Raises DemoError for a folder with other contents.
    """
    file = into / SEARCH_FILE
    if file.exists():
        return
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise DemoError(f"{into} is not an empty folder, nor one of an earlier demo. Give another one with --into.")
    into.mkdir(parents=True, exist_ok=True)
    write_text(file, (folder_of(TINY_MODELS) / SEARCH_FILE).read_text(encoding="utf-8"))


def train_models(into: Path, say: Callable[[str], None]) -> None:
    """Train the models that are missing, with their tasks. say: prints the progress of each and its time left."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)  # as for the figures in the README: the number of threads changes the weights
    prepare = importlib.import_module(f"{TINY_MODELS}.prepare").prepare
    prepare(into / MODELS, importlib.import_module(f"{TINY_MODELS}.sets").DEMO, say=lambda line: say(f"  {line}"))


def steps_of_demo(into: Path) -> tuple[Step, ...]:
    """Return the commands that follow the training; each can be repeated."""
    run = str(into / RUN)
    return (
        Step(
            "Search: a coefficient per tensor and expert, on Ray workers, then the choice on held-out examples",
            ("search", str(into / SEARCH_FILE), "--resume", "--no-menu"),
        ),
        Step("Status: the results of the run, at any time", ("status", run)),
        Step("Report: one HTML file that opens offline", ("report", run)),
        Step(
            "Export: the winner as an ordinary checkpoint",
            ("export", run, "--best", "-o", str(into / MERGED), "--overwrite"),
        ),
    )
