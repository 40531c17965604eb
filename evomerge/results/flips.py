"""Negative flips: answers that a parent gets right and a merge gets wrong (Yan et al., 2021).

https://arxiv.org/abs/2011.09161 measures them between two versions of a model: a mean can rise while many users lose an
answer that they relied on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.base import FloatArray, content_of
from evomerge.results.scored import ScoredModel


@dataclass(frozen=True)
class Flips:
    """Answers of one task that differ between a model and the best parent on the task.

    lost: right in the parent, wrong in the model. gained: the reverse. n_examples: distinct ones that both were scored
    on; copies of an example are no further evidence.
    """

    task: str
    parent: str
    lost: int
    gained: int
    n_examples: int


def flips(model: ScoredModel, best: Mapping[str, ScoredModel]) -> tuple[Flips, ...]:
    """Return the flips of a model on every task whose answers are right or wrong.

    best: task -> the best parent on it, scored on the same examples.
    """
    found = []
    for task, parent in best.items():
        first = _distinct(model.scores[task].example_ids)
        mine, theirs = model.scores[task].values[first], parent.scores[task].values[first]
        if task not in model.objective.whole_model and _right_or_wrong(model, task, mine, theirs):
            lost, gained = int(np.sum(theirs > mine)), int(np.sum(mine > theirs))
            found.append(Flips(task, parent.label, lost, gained, len(mine)))
    return tuple(found)


def share_lost(found: Iterable[Flips]) -> float | None:
    """Return the share of all examples whose right answer was lost; None if no task has right and wrong answers."""
    counts = [(each.lost, each.n_examples) for each in found]
    return sum(lost for lost, _ in counts) / sum(n for _, n in counts) if counts else None


def flips_sentence(winner: str, found: Iterable[Flips]) -> str:
    """Say how many answers of the best parents the winner loses; empty if no task has right and wrong answers."""
    named = [f"{each.task} {each.lost} of {each.n_examples} (and {each.gained} the other way round)" for each in found]
    if not named:
        return ""
    return f"On held-out examples, {winner} gets wrong what the best parent on the task gets right: {', '.join(named)}."


def _distinct(example_ids: Sequence[str]) -> list[int]:
    """Return the place of the first copy of every example."""
    return list({content_of(name): place for place, name in reversed(list(enumerate(example_ids)))}.values())


def _right_or_wrong(model: ScoredModel, task: str, *values: FloatArray) -> bool:
    larger = model.objective.sign(task) > 0
    return larger and all(bool(np.isin(each, (0.0, 1.0)).all()) for each in values)
