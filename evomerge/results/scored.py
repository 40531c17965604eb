"""Which models of a study were scored on a split, on the same examples, and what each of them is."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evaluators.base import Scores
from evomerge.results.ranking import Ranking, scores_of
from evomerge.study import Entry, Study
from evomerge.trial import Origin, Trial, detail_of, number_in

Kind = Literal["candidate", "start", "recommended", "average", "parent", "base"]
_KINDS: Mapping[Origin, Kind] = {
    Origin.BASE: "base",
    Origin.PARENT: "parent",
    Origin.BASELINE: "average",
    Origin.START: "start",
    Origin.RECOMMENDED: "recommended",
}
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
    here = (entry for entry in study.told if entry.trial.split == split and entry.losses is not None)
    return {detail_of(e.trial.label): scores_of(e) for e in here if e.trial.origin is Origin.RERUN}


def identity(study: Study, trial: Trial) -> tuple[str, int, Kind]:
    """Label, number on the search split, and kind of a trial; on the other splits finalists are called `trial:N`."""
    if trial.merge is not None:
        return trial.label, _number_on_search(study, trial), _KINDS[trial.origin]
    number = number_in(trial.label)
    known = None if number is None else study.entries.get(number)
    first = trial if known is None else known.trial
    return Origin.CANDIDATE.label(first.number), first.number, _KINDS.get(first.origin, "candidate")


def _number_on_search(study: Study, baseline: Trial) -> int:
    on_search = (entry.trial for entry in study.entries.values() if entry.trial.split == "search")
    return next((trial.number for trial in on_search if trial.label == baseline.label), baseline.number)
