"""Trials and outcomes, as exchanged between driver, workers and ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge.recipe import Merge
from evomerge.text.masking import masked

FloatArray = NDArray[np.float64]

#: Labels of the model that the experts were fine-tuned from, and of the plain average of the experts.
BASE, UNIFORM = "base", "uniform"
#: Label of the trial that comes before all others: do different coefficients make a difference at all?
CANARY = "canary"
#: Labels of the point at which a search starts, and of every point that its optimizer proposes.
START, SEARCH = "start", "search"

#: Where a study's environment records, by label, why a parent was scored with the merge's tokenizer, not its own.
MERGES_TOKENIZER = "scored_with_the_merges_tokenizer"


class Origin(Enum):
    """Where a trial comes from: the first word of its label, before the colon. BASELINE stands for every other word.

    A label is read here and nowhere else: `canary`, `start`, `learned:2` (a good point of an earlier study), `search`,
    `recommended:24` (by the number of candidates before it), `base`, `parent:math`, `uniform` or `task_arithmetic:0.4`,
    and on the splits after the search `trial:7` for a candidate and `rerun:parent:math` for a model that is scored a
    second time.
    """

    CANARY = CANARY
    START = START
    LEARNED = "learned"
    SEARCH = SEARCH
    RECOMMENDED = "recommended"
    CANDIDATE = "trial"
    BASE = BASE
    PARENT = "parent"
    BASELINE = "baseline"
    RERUN = "rerun"

    @classmethod
    @lru_cache(maxsize=1024)  # a search asks for the origins of all its trials, again and again
    def of(cls, label: str) -> "Origin":
        """The origin that a label names."""
        return _ORIGINS.get(family_of(label), cls.BASELINE)

    def label(self, detail: object) -> str:
        """The label of this origin with a detail, such as `parent:math`."""
        return f"{self.value}:{detail}"

    @property
    def is_parent(self) -> bool:
        """Whether it is one of the models that are merged, or their base."""
        return self in (Origin.BASE, Origin.PARENT)


_ORIGINS = {origin.value: origin for origin in Origin}


def family_of(label: str) -> str:
    """The first word of a label, `task_arithmetic` of `task_arithmetic:0.4`."""
    return label.partition(":")[0]


def detail_of(label: str) -> str:
    """The rest of a label after its first word, `math` of `parent:math`; empty where there is none."""
    return label.partition(":")[2]


def number_in(label: str) -> int | None:
    """7 for `trial:7`; None for another label."""
    detail = detail_of(label)
    return int(detail) if Origin.of(label) is Origin.CANDIDATE and detail.isdigit() else None


class Value(msgspec.Struct, frozen=True, eq=False):
    """Base of what a study holds by the hundred thousand: made ten times as fast as a frozen dataclass."""

    def changed(self, **fields: Any) -> Self:
        """Return a copy with other values of some fields."""
        return msgspec.structs.replace(self, **fields)


class Trial(Value, frozen=True, eq=False):
    """One candidate to score on one split, or a part of that work: some examples, or a gradient on them.

    A part is never compared with other models and never selected; only the optimizer that asked for it learns from it.

    Attributes:
        number: Unique in its study.
        x: The point of the unit cube, or None when `merge` says it all (baselines).
        merge: The complete merge of a baseline.
        label: What it is, see `Origin`; "search" for an optimizer's proposal.
        split: "search", "select" or "report".
        seed: For the masks of random methods.
        examples: Task -> ids of the only examples to score; None for all of the split. A trial with examples is a part.
        extends: Number of a part of the same point whose scores are kept; only what it lacks is scored. None for none.
        gradient: Task -> weight of its mean loss; the derivative of their sum by the point is wanted. None for scores.
        cost: Examples read, as a share of the split's, three times as many where a gradient is wanted.
        references: Task -> example id -> accepted answer that a baseline wrote, for the losses of generated answers.
            Follows from earlier trials, so the ledger does not repeat it.
        batch_tokens: Kind of device -> tokens per batch, as the canary measured them; also not repeated.
    """

    number: int
    x: FloatArray | None
    merge: Merge | None = None
    label: str = SEARCH
    split: str = "search"
    seed: int = 0
    examples: Mapping[str, tuple[str, ...]] | None = None
    extends: int | None = None
    gradient: Mapping[str, float] | None = None
    cost: float = 1.0
    references: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict)
    batch_tokens: Mapping[str, int] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Trial(number={self.number}, label={self.label!r}, split={self.split!r})"

    @property
    def origin(self) -> Origin:
        """Where the trial comes from, by its label."""
        return Origin.SEARCH if self.label == SEARCH else Origin.of(self.label)

    @property
    def counts(self) -> bool:
        """Whether the budget counts the trial: on the search split, and neither the canary nor a recommendation."""
        return self.split == "search" and self.origin not in (Origin.CANARY, Origin.RECOMMENDED)

    @property
    def is_part(self) -> bool:
        """Whether only some examples, or only a gradient, are asked for."""
        return self.examples is not None

    @property
    def is_simple_baseline(self) -> bool:
        """Whether it is a merge to compare with, such as the uniform average, and neither searched nor a parent."""
        return self.merge is not None and not self.origin.is_parent


#: Kind of the failure of a trial that memory ran out under, again after all that can be given back was.
OUT_OF_MEMORY = "out_of_memory"
#: Event of the canary: the tokens per batch that its worker found for its kind of device.
BATCH_TOKENS = "batch_tokens"


@dataclass(frozen=True)
class Failure:
    """The reason why a trial has no scores. kind: a short word that repeats when the cause repeats; trace: for the log.

    Secrets and the home folder are masked in both.
    """

    kind: str
    message: str
    trace: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "trace"):
            object.__setattr__(self, name, masked(getattr(self, name)))


class Outcome(Value, frozen=True, eq=False):
    """The outcome of a trial: scores by task, or a failure; and the time by stage.

    seconds: stage ("merge", "evaluate:TASK", ...) -> wall seconds. events: what happened on the way
    (a worker died and the trial ran again), for the ledger. gradient: of the weighted mean loss by the point,
    (dimension,), where the trial asks for it; the values of `scores` are then the examples' losses.
    """

    number: int
    scores: Mapping[str, Scores] = msgspec.field(default_factory=dict)
    gradient: FloatArray | None = None
    failure: Failure | None = None
    seconds: Mapping[str, float] = msgspec.field(default_factory=dict)
    worker: str = ""
    events: tuple[Mapping[str, object], ...] = ()
