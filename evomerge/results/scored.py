"""Which models of a study were scored on a split, on the same examples, and what each of them is."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evaluators.base import Scores
from evomerge.budget import RECOMMENDED
from evomerge.results.ranking import Ranking, scores_of
from evomerge.study import Entry, Study
from evomerge.trial import RERUN, Trial, is_parent, is_rerun, number_in, trial_label

Kind = Literal["candidate", "start", "recommended", "average", "parent", "base"]
#: Kinds that are points of the search, and no fixed points of comparison.
CANDIDATES: tuple[Kind, ...] = ("candidate", "start", "recommended")


@dataclass(frozen=True, eq=False)
class Scored:
    """A model with its scores on one split.

    label: `trial:7` for what a search proposed, else what it is. number: its trial on the search split. entry: that of
    the scores.
    """

    label: str
    number: int
    kind: Kind
    entry: Entry
    scores: Mapping[str, Scores]

    @property
    def is_candidate(self) -> bool:
        """Whether it is a point of the search, and no fixed point of comparison."""
        return self.kind in CANDIDATES


def scored(study: Study, ranking: Ranking) -> tuple[list[Scored], int]:
    """The models that were scored on a split, by trial number, and how many more were scored on other examples.

    Only what was scored on the same examples can be compared: the largest set of examples counts.
    """
    found: dict[str, Scored] = {}
    for entry in sorted(ranking.entries, key=lambda entry: entry.trial.number):
        scores = scores_of(entry)
        one = Scored(*identity(study, entry.trial), entry, {task: scores[task] for task in ranking.objective.weights})
        found.setdefault(one.label, one)
    if not found:
        return [], 0
    examples = {one.label: tuple(scores.example_ids for scores in one.scores.values()) for one in found.values()}
    shared = max(Counter(examples.values()).items(), key=lambda item: (sum(map(len, item[0])), item[1]))[0]
    kept = [one for label, one in found.items() if examples[label] == shared]
    return kept, len(found) - len(kept)


def reruns(study: Study, split: str) -> dict[str, Mapping[str, Scores]]:
    """Label -> scores of the models that were scored on a split a second time."""
    again = (e for e in study.told if e.trial.split == split and is_rerun(e.trial.label) and e.losses is not None)
    return {entry.trial.label.removeprefix(RERUN): scores_of(entry) for entry in again}


def identity(study: Study, trial: Trial) -> tuple[str, int, Kind]:
    """Label, number on the search split, and kind of a trial; on the other splits finalists are called `trial:N`."""
    if trial.merge is not None:
        kind: Kind = "base" if trial.label == "base" else "parent" if is_parent(trial.label) else "average"
        return trial.label, _number_on_search(study, trial), kind
    number = number_in(trial.label)
    known = None if number is None else study.entries.get(number)
    origin = trial if known is None else known.trial
    kind = (
        "recommended" if origin.label.startswith(RECOMMENDED) else "start" if origin.label == "start" else "candidate"
    )
    return trial_label(origin.number), origin.number, kind


def _number_on_search(study: Study, baseline: Trial) -> int:
    on_search = (entry.trial for entry in study.entries.values() if entry.trial.split == "search")
    return next((trial.number for trial in on_search if trial.label == baseline.label), baseline.number)
