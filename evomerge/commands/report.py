"""`evomerge report`: a study as one self-contained HTML file."""

import webbrowser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.config.fields import named_paths
from evomerge.durable import write_text
from evomerge.merge_space import MergeSpace
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.output.single_file import REPORT as REPORTS
from evomerge.merging.output.single_file import check_file, is_ours
from evomerge.recipe import Merge
from evomerge.recipe.file import dump_merge
from evomerge.report.html.document import document
from evomerge.report.html.page import page
from evomerge.report.html.sources import PageSources
from evomerge.run import Run
from evomerge.study import Study
from evomerge.text.masking import shareable
from evomerge.text.printable import printable
from evomerge.trial import Trial
from search_spaces.base import CoefficientTable, SpaceError

#: Default name of the file, in the run folder.
REPORT = "report.html"


def write_report(
    run: Run,
    output: Path | None,
    *,
    overwrite: bool = False,
    browser: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the report of a run; return the data to print.

    output: the file; by default `report.html` in the run folder. overwrite: whether to replace a file that is not a
    report. browser: whether to open it. Raises OutputError or CheckpointError for a file that must not be replaced.
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
        **{name: data[name] for name in ("gradients", "part_way", "decisions")},
        "note": sources.missing,
    }


def written(data: Mapping[str, Any], places: Iterable[Path]) -> str:
    """Render the data of `document` as HTML without secrets and control characters; `places` are shown by name only."""
    return page(_printable_data(shareable(data, places)))


def _printable_data(data: Any) -> Any:
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        return {printable(key): _printable_data(value) for key, value in data.items()}
    return [_printable_data(value) for value in data] if isinstance(data, list | tuple) else data


def gather(run: Run) -> PageSources:
    """Collect coefficients and recipes of a study's trials, or the reason why the models' headers cannot be read."""
    inputs = tuple(model.name for model in run.config.experts)
    text = run.config.text()
    try:
        run.searched  # noqa: B018 - raises where the models have changed
        merges = _merges(run.study, run.space)
    except (CheckpointError, SpaceError, OSError) as error:
        why = f"The models cannot be read on this machine, so coordinates are shown instead of coefficients: {error}"
        return PageSources(inputs, missing=why, configuration=text)
    tables = {number: _table(run.study.entries[number].trial, merge, run.space) for number, merge in merges.items()}
    return PageSources(inputs, tables, run.space.decode, _Recipes(merges), configuration=text)


class _Recipes(Mapping[int, str]):
    """Recipe files by trial, written on access: one takes much of a second for a large model."""

    def __init__(self, merges: Mapping[int, Merge]) -> None:
        self._merges = merges

    def __getitem__(self, number: int) -> str:
        return dump_merge(self._merges[number], None)

    def __iter__(self) -> Any:
        return iter(self._merges)

    def __len__(self) -> int:
        return len(self._merges)


def _table(trial: Trial, merge: Merge, space: MergeSpace) -> CoefficientTable:
    """Return the coefficients of a trial, of every point in the groups of the space; of a path, its slots."""
    return merge.table if trial.x is None else space.decode(trial.x)


def _merges(study: Study, space: MergeSpace) -> dict[int, Merge]:
    """Return the merge of every trial on the search split, by trial number."""
    merges = {}
    for trial in (entry.trial for entry in study.entries.values() if entry.trial.split == "search"):
        if trial.merge is not None:
            merges[trial.number] = trial.merge
        elif trial.x is not None:
            merges[trial.number] = space.merge(trial.x, trial.seed)
    return merges
