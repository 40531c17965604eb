"""How far a search has come: the best merge so far; of a Pareto search, the front of its candidates and its volume."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from evomerge.results.ranking import best, losses_of, ranked
from evomerge.results.scored import ScoredModel
from evomerge.statistics import pareto
from evomerge.trial import family_of

#: At how many moments the hypervolume is told.
MOMENTS = 8


@dataclass(frozen=True, eq=False)
class SearchFront:
    """The front of a Pareto search while it runs.

    candidates: those that no other merge on the search split dominates, by number. n_candidates: how many have scores.
    best: task -> the merge that is best on it, which may be a baseline but not a parent. hypervolume: what the
    candidates cover beyond the worst score of the base and the parents on every task that tells models apart; None
    before these are scored.
    """

    candidates: tuple[ScoredModel, ...]
    n_candidates: int
    best: Mapping[str, ScoredModel]
    hypervolume: float | None


def leaders(models: Iterable[ScoredModel]) -> list[ScoredModel]:
    """The best model so far after each of these."""
    return list(accumulate(models, lambda leader, model: best((leader, model)) or model))


def best_of_families(baselines: Iterable[ScoredModel]) -> list[ScoredModel]:
    """The best of every family of baselines (parents, task arithmetic, the uniform average), best first."""
    found: dict[str, ScoredModel] = {}
    for baseline in ranked(baselines):
        found.setdefault(family_of(baseline.label), baseline)
    return list(found.values())


def search_front(models: Sequence[ScoredModel]) -> SearchFront | None:
    """The front among the models of the search split; None without a candidate."""
    own = proposed(models)
    if not own:
        return None
    merges = [*own, *(model for model in models if model.kind == "average")]
    losses = losses_of(merges)
    kept = [model for model, keep in zip(merges, pareto.non_dominated(losses), strict=True) if keep]
    return SearchFront(
        tuple(sorted((model for model in kept if model.is_candidate), key=lambda model: model.number)),
        len(own),
        {task: merges[row] for task, row in zip(own[0].objective.weights, losses.argmin(axis=0), strict=True)},
        _hypervolume(models, len(own)),
    )


def proposed(models: Iterable[ScoredModel]) -> list[ScoredModel]:
    """The candidates within the budget: without the point that the optimizer recommends at its end."""
    return [model for model in models if model.is_candidate and model.kind != "recommended"]


def hypervolume_after(models: Sequence[ScoredModel]) -> list[tuple[int, float]]:
    """(candidates, hypervolume) at up to MOMENTS moments, the last one now; empty before the parents are scored."""
    count = len(proposed(models))
    told = np.unique(np.ceil(np.linspace(0, count, MOMENTS + 1)[1:]).astype(int))
    return [(int(n), volume) for n in told if n and (volume := _hypervolume(models, int(n))) is not None]


def _hypervolume(models: Sequence[ScoredModel], count: int) -> float | None:
    """What the first `count` candidates cover."""
    parents = [model for model in models if model.is_parent]
    if not parents:
        return None
    losses, given = losses_of(proposed(models)), losses_of(parents)
    differs = pareto.differing(np.concatenate([losses, given]))
    if not differs.any():
        return 0.0
    return pareto.hypervolume(losses[:count, differs], given[:, differs].max(axis=0))
