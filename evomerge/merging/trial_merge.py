"""The complete merge of a trial: the weights, configuration and tokenizer with which it was scored."""

from collections.abc import Callable

from evomerge.merging.baselines import parent_alone, parent_label
from evomerge.merging.engine import MergeError
from evomerge.merging.models.aligned import Aligned
from evomerge.merging.models.settings import setting_differences
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Merge, Recipe
from evomerge.trial import FloatArray, Trial


def merge_of(trial: Trial, recipe: Recipe, at: Callable[[FloatArray, int], Merge]) -> Merge:
    """Return the merge of a search's trial. Raises MergeError if it cannot be written.

    recipe: of the search, without coefficients. at: the merge at a point of the search, with a seed.
    """
    is_path = trial.merge is not None and bool(trial.merge.recipe.slices)  # with the folder's configuration already
    parent = _parent(recipe, trial) if trial.origin.is_parent and not is_path else None
    if parent is not None:
        return parent
    if trial.merge is not None:
        return trial.merge
    if trial.x is None:
        raise MergeError(f"Trial {trial.number} has neither a point nor a merge.")
    return at(trial.x, trial.seed)


def _parent(recipe: Recipe, trial: Trial) -> Merge | None:
    """Return a parent as scored, with its folder's configuration and tokenizer; None if those are the merge's.

    Raises MergeError for a parent with its own configuration but the merge's blocks or rows.
    """
    sources = open_models(recipe)
    models = {recipe.base.name: sources.base, **sources.inputs}
    name = next(name for name in models if parent_label(recipe, name) == trial.label)
    if models[name].config is None or models[name].path == sources.tokenizer == sources.base.path:
        return None
    if not recipe.slices and not isinstance(models[name], Aligned):
        return parent_alone(recipe, name, sources.base.layout().names)
    differ = setting_differences(sources.base, {name: models[name]}).get(name, ())
    if differ:
        raise MergeError(
            f"{trial.label} was scored under its own config.json ({'; '.join(differ)}), and its blocks or rows are "
            f"rearranged for the merge: no folder can hold both. Use the model itself, {models[name].path}."
        )
    return None
