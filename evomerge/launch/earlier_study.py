"""Comparison of an earlier study with a new search: its trials as points of the new space, and what its scores count.

Its scores count for the same models, method, tasks, examples and settings. Otherwise only its best points do.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import plugins
from evomerge.config import ConfigError, SearchConfig
from evomerge.config.fields import REPORT_ONLY
from evomerge.launch.backend import CANDIDATES
from evomerge.launch.pinned import Examples
from evomerge.launch.placement import COMPUTE_DTYPE
from evomerge.merge_space import MergeSpace
from evomerge.merging import pins
from evomerge.merging.method import MergeMethod, MethodError
from evomerge.objective import Objective
from evomerge.objective.spec import objective_of_study
from evomerge.plugins import PluginError, PluginSpec
from evomerge.recipe import RecipeError
from evomerge.report.words import count as counted
from evomerge.results.coordinates import basis_of
from evomerge.results.ranking import Ranking, ranked
from evomerge.results.report_only import reported_tasks
from evomerge.space import build_merge_space, chosen_space, with_basis
from evomerge.study import Entry, Study
from evomerge.study.changes import differences
from evomerge.study.lines import FILE
from evomerge.text.masking import masked_data
from evomerge.trial import FloatArray, Origin, Outcome, Trial
from search_spaces.base import Layout, SpaceError

#: Entries of the environment that scores are the same with, but for rounding.
_VERSIONS = ("evomerge", "torch", "transformers", "lm_eval", "machine", "vllm", CANDIDATES)
#: Keys of the search file that scores depend on.
_SETTINGS = ("dtype", "tokenizer", "backend")
#: Trials that are learned from: those of models that were scored for the first time.
_COPIED = frozenset(Origin) - {Origin.CANARY, Origin.RERUN}


@dataclass(frozen=True)
class Setting:
    """The new search, as far as earlier studies are compared with it.

    spec: its space. layout: of the models, or of their blocks. compute_dtype: of the network. examples: by task and
    split. planned: its first trials. same: key of a trial's model, None where unknown. versions: as recorded in the
    environment of a study.
    """

    config: SearchConfig
    space: MergeSpace
    spec: PluginSpec
    layout: Layout
    compute_dtype: str
    objective: Objective
    examples: Examples
    planned: Sequence[Trial]
    same: Callable[[Trial], bytes | None]
    versions: Mapping[str, Any]

    def tasks(self, split: str) -> list[str]:
        """Return the tasks that are scored on a split."""
        return [*self.config.tasks, *(self.config.report_only if split == "report" else ())]

    def covers(self, entry: Entry) -> bool:
        """Return whether a trial has the scores of all examples that this search has on the trial's split."""
        split, scores = entry.trial.split, {} if entry.outcome is None else entry.outcome.scores
        return all(
            task in scores and scores[task].is_complete and scores[task].example_ids == self.examples[task, split]
            for task in self.tasks(split)
        )


@dataclass(frozen=True)
class Lesson:
    """The lesson of one earlier study: trials whose scores count here, or good points.

    ledger: SHA-256 of its ledger. differences: why its scores do not count here; none if they do. reused: whether its
    scores stand for those of the same models. scored: its trials as points of this search, if its scores count. points:
    its best points otherwise, best first, (dimension,) each.
    """

    folder: Path
    ledger: str
    differences: tuple[str, ...]
    reused: bool
    scored: tuple[Entry, ...] = ()
    points: tuple[FloatArray, ...] = ()


def lesson(setting: Setting, folder: Path, place: str, found: pins.Pins) -> Lesson:
    """Compare an earlier study with the new search.

    Args:
        setting: The new search.
        folder: Folder of the earlier run.
        place: Where the search file names it, for errors.
        found: Pins of the new search's models.

    Raises:
        ConfigError: There is no study, it has no scored candidate, or its coefficients have no counterparts.
        StudyError: Its ledger cannot be read.
    """
    if not (folder / FILE).is_file():
        raise ConfigError(f"{place}: there is no study in {folder}; expected the folder of an earlier run.")
    old = Study.read(folder)
    scored = [e for e in old.told if e.losses is not None and e.trial.origin in _COPIED]
    own = [e for e in scored if e.trial.split == "search" and e.trial.x is not None]
    if not own:
        raise ConfigError(f"{place}: the study in {folder} has no scored candidate to learn from.")
    _check_methods(setting, old, place)
    ledger = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    placed = _placed(setting, old, [e for e in scored if e.trial.x is not None], place)
    if not any(e.trial.number in placed for e in own):
        raise ConfigError(f"{place}: none of the {counted(len(own), 'point')} of {folder} lies in this search's space.")
    differ = tuple(_differences(setting, old, own, found))
    if differ:
        return Lesson(folder, ledger, differ, reused=False, points=_best(old, placed))
    return Lesson(folder, ledger, (), _same_versions(setting, old), tuple(_copies(setting, old, scored, placed)))


def _check_methods(setting: Setting, old: Study, place: str) -> None:
    before = [PluginSpec.read(spec).kind for spec in _listed(old.configuration["method"])]
    now = [spec.kind for spec in setting.config.methods.values()]
    if before != now:
        raise ConfigError(
            f"{place}: its candidates are merges by {', '.join(before)}, and those of this search by {', '.join(now)}, "
            "whose coefficients mean something else. Use the same `method`, or another run."
        )
    names, mine = list(old.configuration["experts"]), [model.name for model in setting.config.experts]
    if sorted(names) == sorted(mine) and names != mine:
        raise ConfigError(
            f"{place}: its experts are in the order {', '.join(names)}, and here {', '.join(mine)}. List them in the "
            "same order, which is that of the coefficients."
        )


def _differences(setting: Setting, old: Study, own: Sequence[Entry], found: pins.Pins) -> Iterator[str]:
    """Yield why the scores of an earlier study are no scores of this search."""
    said, now = old.configuration, json.loads(json.dumps(setting.config.as_dict()))
    if old.inputs is None or not pins.same_files(pins.from_dict(old.inputs), found):
        yield "other models"
    for before, spec in zip(_listed(said["method"]), setting.config.methods.values(), strict=True):
        method: MergeMethod = plugins.load("merge method", spec.kind, MergeMethod)
        if PluginSpec.read(before).options != spec.options:
            yield f"other options of {spec.kind}"
        elif method.random and said.get("seed", 0) != setting.config.seed:
            yield f"another seed, and {spec.kind} draws masks"
    for key in _SETTINGS:
        if said.get(key) != now.get(key):
            yield f"{key} was {said.get(key, 'the default')}"
    scored_in = old.environment.get(COMPUTE_DTYPE, "stored")
    if scored_in != setting.compute_dtype:
        yield f"compute_dtype was {scored_in}"
    tasks = now["tasks"]
    others = [task for task in tasks if differences(said["tasks"].get(task), tasks[task], f"tasks.{task}")]
    if others:
        yield f"other tasks or options: {', '.join(others)}"
    elif not any(map(setting.covers, own)):
        yield "other examples on the search split"


def _same_versions(setting: Setting, old: Study) -> bool:
    same_device = old.configuration.get("device", "auto") == setting.config.device
    return same_device and all(old.environment.get(name) == setting.versions.get(name) for name in _VERSIONS)


def _placed(setting: Setting, old: Study, entries: Sequence[Entry], place: str) -> dict[int, FloatArray]:
    """Return the points of trials in the space of this search, by number; those outside of it are left out.

    Raises ConfigError for coefficients that have no counterparts.
    """
    said, space, recipes = old.configuration, setting.space, setting.config.recipes()
    points = {e.trial.number: e.trial.x for e in entries if e.trial.x is not None}
    count = len(next(iter(points.values())))
    given, optimizer = PluginSpec.read(said["space"]), PluginSpec.read(said["optimizer"])
    spec = chosen_space(given, optimizer, recipes, of_run=bool(setting.config.checkpoints))
    spec = with_basis(spec, basis_of(old))
    if spec == setting.spec and count == space.dimension:
        return points
    try:
        theirs = build_merge_space(spec, recipes, setting.layout)
    except (PluginError, SpaceError, MethodError, RecipeError) as error:
        raise ConfigError(f"{place}: its space cannot be built over the models of this search: {error}") from error
    if count != theirs.dimension:
        raise ConfigError(
            f"{place}: its candidates have {counted(count, 'coefficient')}, and over the models of this search its "
            f"space has {theirs.dimension}, so they have no counterparts. To begin with a merge of models with another "
            "number of blocks, write its recipe with `evomerge pick RUN -o recipe.yaml`, and give the space "
            "`start: recipe.yaml`."
        )
    moved = {number: _moved(theirs, space, x) for number, x in points.items()}
    return {number: x for number, x in moved.items() if x is not None}


def _moved(theirs: MergeSpace, mine: MergeSpace, x: FloatArray) -> FloatArray | None:
    """Return the point of a space with the coefficients of a point of another one; None if there is none."""
    try:
        return mine.encode(theirs.decode(x), theirs.method_at(x))
    except SpaceError:
        return None


def _best(old: Study, placed: Mapping[int, FloatArray]) -> tuple[FloatArray, ...]:
    """Return the best candidates of a study by its own objective, best first."""
    models = ranked(Ranking(old, objective_of_study(old), "search").candidates)
    return tuple(placed[model.trial.number] for model in models if model.trial.number in placed)


def _copies(setting: Setting, old: Study, scored: Sequence[Entry], placed: Mapping[int, FloatArray]) -> Iterator[Entry]:
    """Yield the trials that are scored on the examples of this search, as points of its space, or as merges."""
    reported, before = masked_data(setting.config.as_dict().get(REPORT_ONLY, {})), reported_tasks(old)
    splits = {"search", "select"}
    if all(before.get(task) == reported[task] for task in reported):
        splits.add("report")
    for entry in scored:
        trial, outcome = entry.trial, entry.outcome
        x = placed.get(trial.number)
        outside = trial.x is not None and x is None
        if outside or outcome is None or trial.split not in splits or not setting.covers(entry):
            continue
        merge = trial.merge if x is None else None
        copy = Trial(trial.number, x, merge, trial.label, trial.split, setting.config.seed)
        kept = {task: outcome.scores[task] for task in setting.tasks(trial.split)}
        yield entry.changed(trial=copy, outcome=Outcome(trial.number, kept))


def _listed(data: Any) -> list[Any]:
    return list(data) if isinstance(data, list) else [data]
