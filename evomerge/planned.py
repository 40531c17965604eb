"""The trials before the optimizer's own: the canary, the start, and the merges to compare with."""

from evomerge.merging.baselines import baselines, completed, same_weights
from evomerge.merging.models.model import Model
from evomerge.recipe import Merge, Recipe
from evomerge.records import CANARY, Trial
from search_spaces.base import FloatArray, SearchSpace, SpaceError


def planned_trials(recipe: Recipe, space: SearchSpace, base: Model, seed: int) -> tuple[Trial, ...]:
    """Canary, start and baselines, numbered when they are asked; baselines with their points where they have one."""
    start = space.default()
    fixed = [
        Trial(0, _place(space, recipe, merge, base), merge=merge, label=label, seed=seed)
        for label, merge in baselines(recipe, base.layout().names)
    ]
    return (Trial(0, start, label=CANARY, seed=seed), Trial(0, start, label="start", seed=seed), *fixed)


def _place(space: SearchSpace, recipe: Recipe, merge: Merge, base: Model) -> FloatArray | None:
    """Where a baseline lies in the space, so that the optimizer can learn from it; None outside of it.

    A merge by another method counts where the searched one gives the same weights with the same coefficients.
    """
    table = completed(merge.table, recipe)
    if table is None:
        return None
    searched = Merge(recipe, table, merge.seed)
    if not same_weights(searched, merge, {name: len(base.shape(name)) for name in base.layout().names}):
        return None
    try:
        return space.encode(searched.table)
    except SpaceError:
        return None
