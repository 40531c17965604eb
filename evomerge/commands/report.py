"""`evomerge report`: a study as one self-contained HTML file."""

import webbrowser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.config.fields import named_paths
from evomerge.durable import write_text
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.output.single_file import REPORT as REPORTS
from evomerge.merging.output.single_file import check_file, is_ours
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.file import dump_merge
from evomerge.report.html.document import document
from evomerge.report.html.page import page
from evomerge.report.html.sources import PageSources
from evomerge.run import Run
from evomerge.study import Study
from evomerge.text.masking import shareable
from evomerge.text.printable import printable
from search_spaces.base import SearchSpace, SpaceError

#: What the file is called in the folder of the run, unless it is named.
REPORT = "report.html"


def write_report(
    run: Run,
    output: Path | None,
    *,
    overwrite: bool = False,
    browser: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the report of a run; returns what to print. Raises OutputError or CheckpointError for a file that is not
    replaced.

    output: the file, `report.html` in the folder of the run by default. overwrite: replace a file there that is no
    report. browser: also open it.
    """
    path = run.folder / REPORT if output is None else output
    inputs = named_paths(run.study.configuration)
    if output is not None:
        check_file(output, ours=REPORTS, overwrite=overwrite or is_ours(output, REPORTS), inputs=inputs)
    say("reading the models' headers")
    sources = gather(run)
    say("comparing")
    data = document(run, sources)
    write_text(path, written(data, [run.folder.absolute(), *inputs]))
    if browser:
        webbrowser.open(path.absolute().as_uri())
    return {
        "report": str(path),
        "bytes": path.stat().st_size,
        "winner": data["headline"]["winner"],
        "verdict": data["headline"]["verdict"],
        "points": len(data["points"]),
        "note": sources.missing,
    }


def written(data: Mapping[str, Any], places: Iterable[Path]) -> str:
    """The page of what `document` gave: of the paths in `places` only names, no secrets, no control characters."""
    return page(_printable_data(shareable(data, places)))


def _printable_data(data: Any) -> Any:
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        return {printable(key): _printable_data(value) for key, value in data.items()}
    return [_printable_data(value) for value in data] if isinstance(data, list | tuple) else data


def gather(run: Run) -> PageSources:
    """What the models' headers say about the points of a study; where they cannot be read, why not."""
    inputs = tuple(model.name for model in run.config.experts)
    text = run.config.text()
    try:
        merges = _merges(run.study, run.searched, run.space)
    except (CheckpointError, SpaceError, OSError) as error:
        why = f"The models cannot be read on this machine, so coordinates are shown instead of coefficients: {error}"
        return PageSources(inputs, missing=why, configuration=text)
    tables = {number: merge.table for number, merge in merges.items()}
    return PageSources(inputs, tables, run.space.decode, _Recipes(merges), configuration=text)


class _Recipes(Mapping[int, str]):
    """Recipe files by trial, written when they are asked for: one takes a good part of a second for a large model."""

    def __init__(self, merges: Mapping[int, Merge]) -> None:
        self._merges = merges

    def __getitem__(self, number: int) -> str:
        return dump_merge(self._merges[number], None)

    def __iter__(self) -> Any:
        return iter(self._merges)

    def __len__(self) -> int:
        return len(self._merges)


def _merges(study: Study, recipe: Recipe, space: SearchSpace) -> dict[int, Merge]:
    """Every trial of the search split as a complete merge."""
    merges = {}
    for trial in (entry.trial for entry in study.entries.values() if entry.trial.split == "search"):
        if trial.merge is not None:
            merges[trial.number] = trial.merge
        elif trial.x is not None:
            merges[trial.number] = Merge(recipe, space.decode(trial.x), trial.seed)
    return merges
