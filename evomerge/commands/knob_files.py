"""Merges along a front as recipes and exports: scored ones, and mixtures of two neighbors."""

from dataclasses import replace
from pathlib import Path

from evomerge.commands.knob import Mixture, open_knob
from evomerge.commands.pick import Request
from evomerge.export.export import Choice
from evomerge.merging.output.single_file import RECIPE, check_file
from evomerge.recipe import Merge
from evomerge.recipe.file import write_merge
from evomerge.results.knob import Setting
from evomerge.run import Run
from evomerge.trial import Trial
from search_spaces.base import CoefficientTable


def write_steps(run: Run, request: Request, n_steps: int, folder: Path, *, overwrite: bool) -> list[Path]:
    """Write a recipe file for each of the positions of `shown_steps` into a folder, `knob-0.250.yaml`.

    Raises OutputError or CheckpointError, before any is written, for a file that must not be replaced.
    """
    merges = [merge_at(run, setting) for setting in open_knob(run, request).steps(n_steps)]
    files = [folder / f"knob-{n / (n_steps - 1):.3f}.yaml" for n in range(n_steps)]
    folder.mkdir(exist_ok=True)
    for file, merge in zip(files, merges, strict=True):
        check_file(file, ours=RECIPE, overwrite=overwrite, inputs=merge.recipe.paths)
    for file, merge in zip(files, merges, strict=True):
        write_merge(merge, file)
    return files


def choice_of(run: Run, mixture: Mixture) -> Choice:
    """Return an interpolated merge, for `export`."""
    said = mixture.sentence
    return Choice(mixture.label, merge_at(run, mixture.setting), {"knob": said}, (said, *mixture.notes))


def merge_at(run: Run, setting: Setting) -> Merge:
    """Return the complete merge at a position. Raises like `Run.merge_of`."""
    if setting.second is None:
        return run.merge_of(setting.first.point.trial)
    seed = run.config.seed
    # The merges are made from their points, so that a baseline has the groups of the space too.
    first, second = (run.merge_of(Trial(-1, s.point.trial.x, seed=seed)) for s in (setting.first, setting.second))
    theirs, share = second.table.values, setting.share
    values = {name: (1.0 - share) * mine + share * theirs[name] for name, mine in first.table.values.items()}
    return replace(first, table=CoefficientTable(first.table.groups, values))
