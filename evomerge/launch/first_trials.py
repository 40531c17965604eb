"""The trials before the optimizer's proposals: canary, start and baselines."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from evomerge.merge_space import MergeSpace
from evomerge.merging.baselines import baselines, completed, parent_label, same_weights
from evomerge.merging.models.model import Model
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.file import merge_to_dict
from evomerge.recipe.paths import parent_merge
from evomerge.trial import CANARY, START, UNIFORM, Origin, Trial
from search_spaces.base import FloatArray, SpaceError

#: Decimals to which coefficients must agree for two trials to share scores: what `encode` and `decode` may round, and
#: less than float32, to which the optimizers compare candidates, as some methods compute angles in float64.
DIGITS = 12


def planned_trials(
    space: MergeSpace,
    base: Model,
    seed: int,
    own: Sequence[str] = (),
    merges: Sequence[tuple[str, Merge]] | None = None,
) -> tuple[Trial, ...]:
    """Return canary, starts and baselines, with their points in the search space where they have one.

    own: models that are scored as their folders say: what a merge with the same weights scores is not known.
    merges: labels and merges of the baselines; None for those of every search.
    """
    apart = _apart(space.recipes[0], own)
    starts = [Trial(0, space.default(), label=START, seed=seed)]
    for number, name in list(enumerate(space.methods))[1:]:
        starts.append(Trial(0, space.default(number), label=Origin.START.label(name), seed=seed))
    fixed = []
    for label, merge in baselines(space.recipes[0], base.layout().names) if merges is None else merges:
        place = None if label in apart else _place(space, merge, base)
        # A search by task arithmetic starts at the uniform average up to rounding, which is then scored once.
        same = _as_searched(space, merge, base) if label == UNIFORM and place is None else None
        fixed.append(Trial(0, place, merge=same or merge, label=label, seed=seed))
    return (Trial(0, space.default(), label=CANARY, seed=seed), *starts, *fixed)


def planned_paths(
    space: MergeSpace, models: Mapping[str, Model], seed: int, own: Sequence[str] = ()
) -> tuple[Trial, ...]:
    """Return canary, start and baselines of a search for paths: each model as it is, and the landmarks of the space.

    A model as it is has its own embeddings and head, so only the one that has the ends of all paths has a point.
    models: by name, the base first. own: as in `planned_trials`.
    """
    recipe, inner, start = space.recipes[0], space.spaces[0], space.default()
    marks, path = dict(inner.landmarks()), inner.path(inner.decode(start))
    ends = None if path is None else path.ends
    apart = _apart(recipe, own)
    fixed = []
    for name, model in models.items():
        label = parent_label(recipe, name)
        place = marks.pop(f"blocks:{name}", None) if name == ends and label not in apart else None
        merge = parent_merge(recipe, name, model.layout().n_blocks, seed)
        fixed.append(Trial(0, place, merge=merge, label=label, seed=seed))
    fixed += [Trial(0, x, merge=space.merge(x, seed), label=name, seed=seed) for name, x in marks.items()]
    return (Trial(0, start, label=CANARY, seed=seed), Trial(0, start, label=START, seed=seed), *fixed)


def model_key(space: MergeSpace, own: Sequence[str], trial: Trial) -> bytes | None:
    """Return a key that is equal for trials of the same model on the same split; None if unknown.

    By the method and the coefficients, since several points may decode to the same; of a merge outside of the space by
    its recipe. A model that is scored again on purpose is none of them, and neither is the canary.
    """
    if trial.origin in (Origin.CANARY, Origin.RERUN) or (own and trial.label in _apart(space.recipes[0], own)):
        return None
    x = trial.x
    if x is None and trial.merge is not None and trial.merge.recipe in space.recipes:
        with suppress(SpaceError):
            x = space.encode(trial.merge.table, space.recipes.index(trial.merge.recipe))
    if x is None:
        recipe = None if trial.merge is None else json.dumps(merge_to_dict(trial.merge), sort_keys=True)
        return None if recipe is None else f"{trial.split}\0merge\0{recipe}".encode()
    values = np.round(space.key_values(x), DIGITS) + 0.0  # -0.0 is 0.0
    which = f"{trial.split}\0{trial.seed}\0{space.methods[space.method_at(x)]}\0"
    return which.encode() + values.tobytes()


def _apart(recipe: Recipe, own: Sequence[str]) -> set[str]:
    """Return the labels of parents that are scored with their own configuration or tokenizer."""
    return {parent_label(recipe, name) for name in own}


def _as_searched(space: MergeSpace, merge: Merge, base: Model) -> Merge | None:
    """Return the same weights up to rounding as a merge by a searched method; None if none gives them."""
    found = (_by(recipe, merge, base, up_to_rounding=True) for recipe in space.recipes)
    return next((each for each in found if each is not None), None)


def _by(recipe: Recipe, merge: Merge, base: Model, *, up_to_rounding: bool = False) -> Merge | None:
    """Return the same weights as a merge by another recipe; None if it does not give them."""
    table = completed(merge.table, recipe)
    if table is None:
        return None
    searched = Merge(recipe, table, merge.seed)
    dimensions = {name: len(base.shape(name)) for name in base.layout().names}
    return searched if same_weights(searched, merge, dimensions, up_to_rounding=up_to_rounding) else None


def _place(space: MergeSpace, merge: Merge, base: Model) -> FloatArray | None:
    """Return a baseline's point in the search space, from which the optimizer learns; None outside of it.

    A merge by another method counts where a searched one gives the same weights with the same coefficients.
    """
    for number, recipe in enumerate(space.recipes):
        searched = _by(recipe, merge, base)
        try:
            if searched is not None:
                return space.encode(searched.table, number)
        except SpaceError:
            continue
    return None
