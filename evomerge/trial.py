"""What travels between driver, workers and ledger: trials and their outcomes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge.recipe import Merge
from evomerge.text.masking import masked

FloatArray = NDArray[np.float64]

#: Label of the trial that comes before all others: do different coefficients make a difference at all?
CANARY = "canary"

#: Labels of the model that the experts were fine-tuned from, and of the plain average of the experts.
BASE = "base"
#: Where a study's environment records, by label, why a parent was scored with the merge's tokenizer, not its own.
MERGES_TOKENIZER = "scored_with_the_merges_tokenizer"
UNIFORM = "uniform"

#: Label of what is scored a second time, before its own label: does the same model score the same?
RERUN = "rerun:"


#: How a candidate of the search is called where it is scored again, before its number.
_TRIAL = "trial:"


def trial_label(number: int) -> str:
    """The name of a candidate of the search, by its number: `trial:7`."""
    return f"{_TRIAL}{number}"


def number_in(label: str) -> int | None:
    """7 for `trial:7`; None for another label."""
    number = label.removeprefix(_TRIAL)
    return int(number) if number != label and number.isdigit() else None


def is_parent(label: str) -> bool:
    """Whether a trial of this label is one of the models that are merged, or their base."""
    return label == BASE or label.startswith("parent:")


def is_simple_baseline(trial: "Trial") -> bool:
    """Whether a trial is a merge to compare with, such as the uniform average, and neither searched nor a parent."""
    return trial.merge is not None and not is_parent(trial.label)


def is_rerun(label: str) -> bool:
    """Whether a trial of this label repeats another one."""
    return label.startswith(RERUN)


@dataclass(frozen=True, eq=False)
class Trial:
    """One candidate to score on one split.

    number: unique in its study. x: the point of the unit cube, or None when `merge` says it all (baselines).
    label: "search" for an optimizer's proposal, else what it is: "start", "parent:math", "uniform", ...
    split: "search", "select" or "report". seed: for the masks of random methods.
    """

    number: int
    x: FloatArray | None
    merge: Merge | None = None
    label: str = "search"
    split: str = "search"
    seed: int = 0


@dataclass(frozen=True)
class Failure:
    """Why a trial has no scores. kind: a short word that repeats when the cause repeats; trace: for the log.

    Secrets and the home folder are masked in both.
    """

    kind: str
    message: str
    trace: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "trace"):
            object.__setattr__(self, name, masked(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a trial: scores by task, or a failure; and where the time went.

    seconds: stage ("merge", "evaluate:TASK", ...) -> wall seconds. events: what happened on the way
    (a worker died and the trial ran again), for the ledger.
    """

    number: int
    scores: Mapping[str, Scores] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""
    events: tuple[Mapping[str, object], ...] = ()
