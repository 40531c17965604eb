"""`evomerge report`: a study as one HTML file that opens anywhere."""

import webbrowser
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.bench import build_space
from evomerge.config import load_config
from evomerge.config.fields import named_paths
from evomerge.durable import write_text
from evomerge.launch.pinned import compare_models
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.output.single_file import REPORT as REPORTS
from evomerge.merging.output.single_file import check_file, is_ours
from evomerge.merging.recipe_models import open_models
from evomerge.objective.spec import objective_of_study
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.file import dump_merge
from evomerge.report.html.document import document
from evomerge.report.html.material import Material
from evomerge.report.html.page import page
from evomerge.study import SEARCH_FILE, Study
from evomerge.study.lines import FILE, read
from evomerge.text.masking import shareable
from evomerge.text.printable import printable
from search_spaces.base import SearchSpace, SpaceError

#: What the file is called in the folder of the run, unless it is named.
REPORT = "report.html"


def write_report(
    run: Path, output: Path | None, *, browser: bool, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write the report of the study in `run`; returns what to print. Raises StudyError when there is none,
    OutputError or CheckpointError for a file that is not replaced.

    output: the file, `report.html` in the folder of the run by default. browser: open it as well.
    """
    records = read(run / FILE).records
    study = Study(run, records)
    path = run / REPORT if output is None else output
    if output is not None:
        inputs = named_paths(study.configuration)
        check_file(output, ours=REPORTS, overwrite=is_ours(output, REPORTS), inputs=inputs, option=None)
    active = {record.data["number"]: record.active for record in records if record.kind == "told"}
    say("reading the models' headers")
    material = replace(gather(study, run / SEARCH_FILE), active=active)
    say("comparing")
    data = document(study, objective_of_study(study), material)
    places = [run.absolute(), *named_paths(study.configuration)]
    write_text(path, written(data, places))
    if browser:
        webbrowser.open(path.absolute().as_uri())
    return {
        "report": str(path),
        "bytes": path.stat().st_size,
        "winner": data["headline"]["winner"],
        "verdict": data["headline"]["verdict"],
        "points": len(data["points"]),
        "note": material.missing,
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


def gather(study: Study, file: Path) -> Material:
    """What the models' headers say about the points of a study; where they cannot be read, why not."""
    config = load_config(file)
    inputs = tuple(model.name for model in config.experts)
    text = config.text()
    try:
        recipe = config.recipe()
        compare_models(study, recipe)
        space = build_space(config.space, recipe, open_models(recipe).base.layout())
        merges = _merges(study, recipe, space)
    except (CheckpointError, SpaceError, OSError) as error:
        why = f"The models cannot be read here, so the coordinates of points are shown instead: {error}"
        return Material(inputs, missing=why, configuration=text)
    tables = {number: merge.table for number, merge in merges.items()}
    return Material(inputs, tables, space.decode, _Recipes(merges), configuration=text)


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
