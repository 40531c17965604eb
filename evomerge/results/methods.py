"""The merge method of each candidate, where a search chooses from several."""

from collections import Counter
from collections.abc import Iterable, Mapping

from evomerge.results.coordinates import method_at
from evomerge.results.scored import ScoredModel
from evomerge.trial import Trial


def method_of(methods: Mapping[str, int] | None, trial: Trial) -> str | None:
    """Return the method of a candidate; None for baselines, and where the search has one method.

    methods: see `methods_of`.
    """
    return None if trial.x is None or trial.merge is not None else method_at(methods, trial.x)


def best_by_method(models: Iterable[ScoredModel]) -> list[tuple[ScoredModel, int]]:
    """Return the best candidate of each method and how many there are, the best method first; empty for one method."""
    candidates = sorted((model for model in models if model.method is not None), key=lambda model: model.rank)
    counts = Counter(model.method for model in candidates)
    best: dict[str | None, ScoredModel] = {}
    for model in candidates:
        best.setdefault(model.method, model)
    return [(model, counts[method]) for method, model in best.items()]
