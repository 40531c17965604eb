"""Learning from earlier studies: what a search takes over from their ledgers when it begins.

Scored trials of the same models, tasks and settings become observations of the optimizer, and their scores stand for
those of the same models here. Of other studies, the best points are scored first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.config import ConfigError, SearchConfig
from evomerge.launch.earlier_study import Lesson, Setting, lesson
from evomerge.merge_space import MergeSpace
from evomerge.merging import pins
from evomerge.objective.reference import Reference
from evomerge.objective.score import display_score
from evomerge.report.words import count as counted
from evomerge.statistics import pareto
from evomerge.study import Entry, Learned, Study
from evomerge.study.study import LEARNED_FROM
from evomerge.text.masking import masked
from evomerge.trial import START, FloatArray, Origin, Trial

#: Good points of earlier studies with which a search begins; more for a front, which has many.
N_STARTS, N_FRONT_STARTS = 4, 8
#: Where a study's environment names the runs that it is to learn from: it may be killed before it has.
LEARNS_FROM = "learns_from"
#: Label of the space's own start, where points of other studies take its place.
DEFAULT = Origin.START.label("default")
#: Decimals to which coefficients of equal candidates agree.
_DIGITS = 12


@dataclass(frozen=True)
class Learning:
    """The trials and starting points that a search takes over from earlier studies.

    runs: facts of each study, as in the event `learned_from`. starts: label -> point, (dimension,), that the search
    begins with. learned: trials to copy. recorded: whether the study has the trials already.
    """

    runs: tuple[Mapping[str, Any], ...]
    starts: Mapping[str, FloatArray]
    learned: tuple[Learned, ...] = ()
    recorded: bool = False

    def record(self, study: Study) -> None:
        """Copy the trials into a study that has asked for none yet."""
        if not self.recorded:
            starts = {label: [float(value) for value in x] for label, x in self.starts.items()}
            study.learn(self.learned, runs=[dict(run) for run in self.runs], starts=starts)

    def begin(self, planned: Sequence[Trial]) -> tuple[Trial, ...]:
        """Return the first trials of the search, with the points of earlier studies as starts."""
        own = [t.changed(x=self.starts[t.label]) if t.label in self.starts else t for t in planned]
        last = max(place for place, trial in enumerate(own) if trial.origin is Origin.START)
        known = {trial.label for trial in own}
        more = [own[last].changed(x=x, label=label) for label, x in self.starts.items() if label not in known]
        return (*own[: last + 1], *more, *own[last + 1 :])

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence about each study."""
        return tuple(map(_said, self.runs))


def learn(setting: Setting, study: Study | None) -> Learning | None:
    """Return what a search learns, or learned when its study began; None where it learns from no other study.

    Raises ConfigError for an earlier study that cannot be used, and for another choice than that of the study.
    """
    config = setting.config
    folders = list(config.learn_from)
    if study is not None:
        said = next((data for kind, data in study.events if kind == LEARNED_FROM), None)
        if said is not None:
            _check_unchanged(config, [run["run"] for run in said["runs"]])
            starts = {label: np.array(x) for label, x in said["starts"].items()}
            return Learning(tuple(said["runs"]), starts, recorded=True)
        folders = folders or [Path(folder) for folder in study.environment.get(LEARNS_FROM, ())]
        if folders and (study.entries or study.parts):
            raise ConfigError(
                f"{config.where_learning}: the study in {config.study} began without learning from other studies. "
                "Leave it out, or begin a new study in another folder (`study`)."
            )
    if not folders:
        return None
    found = pins.take(pins.input_files(config.recipe()))
    lessons = [lesson(setting, folder, config.where_learning, found) for folder in folders]
    starts = _starts(setting, lessons)
    copied = _copied(setting, lessons, Learning((), starts).begin(setting.planned))
    runs = tuple(_facts(each, mine) for each, mine in zip(lessons, copied, strict=True))
    return Learning(runs, starts, tuple(chain.from_iterable(copied)))


def _check_unchanged(config: SearchConfig, before: Sequence[str]) -> None:
    named = [masked(str(folder)) for folder in config.learn_from]
    if named and named != list(before):
        raise ConfigError(
            f"{config.where_learning}: the study in {config.study} has learned from {', '.join(before)}, not from "
            f"{', '.join(named)}. Leave it out, or begin a new study in another folder (`study`)."
        )


def _starts(setting: Setting, lessons: Sequence[Lesson]) -> dict[str, FloatArray]:
    """Return the points that the search begins with, by label: the best one as its start, then further ones.

    Where no scores of earlier studies count, the start of the space comes second.
    """
    most, space = N_FRONT_STARTS if setting.objective.pareto else N_STARTS, setting.space
    known = _best_known(setting, [entry for each in lessons for entry in each.scored])
    in_turn = zip_longest(*(each.points for each in lessons))
    guesses = [x for row in in_turn for x in row if x is not None]
    found = _start_of_each_method(space, [*known, *guesses])
    if not known:
        found[DEFAULT] = space.default()
    planned = [trial for trial in setting.planned if trial.merge is not None]
    taken = {_key(setting, trial) for trial in (*planned, *(Trial(0, x) for x in found.values()))}
    chosen = [*_new(setting, known, taken, most - 1), *_new(setting, guesses, taken, most - 1)]
    return found | {Origin.LEARNED.label(n): x for n, x in enumerate(chosen, 1)}


def _new(setting: Setting, points: Sequence[FloatArray], taken: set[bytes | None], most: int) -> list[FloatArray]:
    """Return the first points whose models are not taken, at most so many, and take them."""
    found: list[FloatArray] = []
    for x in points:
        key = _key(setting, Trial(0, x))
        if len(found) < most and key not in taken:
            taken.add(key)
            found.append(x)
    return found


def _best_known(setting: Setting, entries: Sequence[Entry]) -> list[FloatArray]:
    """Return the points of scored merges by this search's objective, best first; of a front its points first."""
    objective = setting.objective.on("search")
    rows = [(e.trial, e.outcome.scores) for e in entries if e.trial.split == "search" and e.outcome is not None]
    parents = [scores for trial, scores in rows if trial.origin.is_parent]
    baselines = [scores for trial, scores in rows if trial.origin is Origin.BASELINE]
    display = display_score(objective, (scores for _, scores in rows))
    reference = Reference.among(objective, parents, display, baselines)
    merges = [(trial.x, scores) for trial, scores in rows if trial.x is not None and not trial.origin.is_parent]
    losses = [objective.by_task(scores) for _, scores in merges]
    front = pareto.non_dominated(np.array(losses)) if objective.pareto and merges else [True] * len(merges)
    orders = [
        (not kept, reference.order(loss, reference.constrained(scores)), n)
        for n, (kept, loss, (_, scores)) in enumerate(zip(front, losses, merges, strict=True))
    ]
    return [merges[n][0] for _, _, n in sorted(orders)]


def _start_of_each_method(space: MergeSpace, best: Sequence[FloatArray]) -> dict[str, FloatArray]:
    """Return the start of every method by label: the best point that picks it, else the default of its space."""
    count = len(space.methods)
    own = [next((x for x in best if space.method_at(x) == k), space.default(k)) for k in range(count)]
    if not space.is_portfolio:
        return {START: own[0]}
    inner = np.concatenate([x[space.part(k)] for k, x in enumerate(own)])
    labels = [START, *(Origin.START.label(name) for name in space.methods[1:])]
    return {label: np.concatenate([[(k + 0.5) / count], inner]) for k, label in enumerate(labels)}


def _key(setting: Setting, trial: Trial) -> bytes | None:
    """Return a key that is equal for the same models, also where they are scored anew each time; None if unknown."""
    key = setting.same(trial.changed(seed=setting.config.seed))
    if key is not None or trial.x is None:
        return key
    values = setting.space.decode(trial.x).values
    method = bytes([setting.space.method_at(trial.x)])
    return b"\0".join([method, *((np.round(values[name], _DIGITS) + 0.0).tobytes() for name in sorted(values))])


def _copied(setting: Setting, lessons: Sequence[Lesson], planned: Sequence[Trial]) -> list[list[Learned]]:
    """Return the trials to copy by study. The optimizer gets each model once: planned ones from this search."""
    seen = {key for trial in planned if (key := setting.same(trial)) is not None}
    found: list[list[Learned]] = []
    number = 0
    for each in lessons:
        found.append([])
        for entry in each.scored:
            key = setting.same(entry.trial)
            observed = entry.trial.split == "search" and entry.trial.x is not None and key not in seen
            if entry.outcome is None or not (observed or each.reused):
                continue
            number -= 1
            if observed and key is not None:
                seen.add(key)
            copy = Entry(entry.trial.changed(number=number), entry.outcome.changed(number=number))
            found[-1].append(Learned(copy, observed, each.reused))
    return found


def _facts(earlier: Lesson, copied: Sequence[Learned]) -> dict[str, Any]:
    return {
        "run": masked(str(earlier.folder)),
        "ledger": earlier.ledger,
        "observations": sum(each.observed for each in copied),
        "scores": sum(each.reused for each in copied),
        "differences": list(earlier.differences),
    }


def _said(run: Mapping[str, Any]) -> str:
    if run["differences"]:
        return (
            f"learns from {run['run']} only where to begin: its best candidates are scored first. Its scores do not "
            f"count here ({'; '.join(run['differences'])})"
        )
    seen = f"learns from {run['run']}: {counted(run['observations'], 'candidate')} as observations"
    if not run["scores"]:
        return f"{seen}; all models are scored anew, since versions of packages, the machine or the device differ"
    return f"{seen}, and {counted(run['scores'], 'score')} of models that are not computed again"
