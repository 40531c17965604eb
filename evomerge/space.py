"""The search space that a search file asks for, over the tensors or the blocks of its models."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge import plugins
from evomerge.merge_space import MergeSpace
from evomerge.merging.method import MergeMethod
from evomerge.merging.models.model import Model
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.merging.slopes import why_no_gradient
from evomerge.optimizers.base import Optimizer
from evomerge.plugins import PluginSpec
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.file import read_merge
from search_spaces._depth_transfer import carried_over
from search_spaces.base import CoefficientTable, Layout, Parameter, SearchSpace, SpaceError

#: Space of the checkpoints of one run.
SPAN = "span"


def chosen_space(
    space: PluginSpec, optimizer: PluginSpec, recipes: Mapping[str, Recipe], *, of_run: bool = False
) -> PluginSpec:
    """Return the space that `auto` stands for; any other as it is.

    recipes: those of the methods to choose from. of_run: whether the models are the checkpoints of one run.
    """
    if space.kind != "auto":
        return space
    if of_run:
        return PluginSpec(SPAN, space.options)
    kind: type[Optimizer] = plugins.load("optimizer", optimizer.kind, Optimizer)
    fine = kind.follows_gradients and all(why_no_gradient(recipe) is None for recipe in recipes.values())
    return PluginSpec("tensorwise" if fine else "layerwise", space.options)


def arranges_blocks(spec: PluginSpec) -> bool:
    """Return whether a space searches for paths through the blocks of the models, instead of merges of them."""
    kind: type[SearchSpace] = plugins.load("search space", spec.kind, SearchSpace)
    return kind.arranges_blocks


def open_searched(spec: PluginSpec, recipe: Recipe) -> RecipeModels:
    """Open the models of a search over this space. Raises CheckpointError."""
    return open_models(recipe, apart=arranges_blocks(spec))


def n_merged(spec: PluginSpec, recipe: Recipe) -> int:
    """Return how many inputs are merged at a time: one where each block comes from one model."""
    return 1 if arranges_blocks(spec) else len(recipe.inputs)


def layout_of(spec: PluginSpec, models: Mapping[str, Model]) -> Layout:
    """Return the layout of a space: the base's tensors, or in their place the blocks of all models in one list.

    models: by name, the base first.
    """
    if not arranges_blocks(spec):
        return next(iter(models.values())).layout()
    names = [f"{name}.block.{n}" for name, model in models.items() for n in range(model.layout().n_blocks)]
    return Layout(tuple(names), tuple(range(len(names))), ("other",) * len(names))


def with_basis(space: PluginSpec, basis: Sequence[Sequence[float]] | None) -> PluginSpec:
    """Return the space with the directions that a study began with; any other space, and without them, as it is."""
    if space.kind != SPAN or basis is None:
        return space
    return PluginSpec(SPAN, {**space.options, "basis": basis})


def build_merge_space(spec: PluginSpec, recipes: Mapping[str, Recipe], layout: Layout) -> MergeSpace:
    """Build the space of the merges that a search chooses from, over a layout, see `layout_of`.

    With several methods, ranges and frozen coefficients apply to those that have the parameter, and a start to those of
    its own method.

    Args:
        spec: The search space, not `auto`.
        recipes: Name of a method -> its recipe.
        layout: Tensors of the base, or blocks of all models.

    Raises:
        SpaceError: A space cannot be built, or an option concerns none of the methods.
    """
    if len(recipes) == 1:
        return MergeSpace({name: (recipe, build_space(spec, recipe, layout)) for name, recipe in recipes.items()})
    options = dict(spec.options)
    start = _start(options) if isinstance(options.get("start"), str) else None
    if start is not None and all(recipe.method != start.recipe.method for recipe in recipes.values()):
        raise SpaceError(
            f"The start {options['start']} merges by {start.recipe.method}, and the search chooses from "
            f"{', '.join(recipes)}: add the method, or start from another recipe."
        )
    methods = {name: _method(recipe) for name, recipe in recipes.items()}
    _check_parameters(options, methods)
    found = {}
    for name, recipe in recipes.items():
        own = _own_options(options, methods[name])
        if start is not None and recipe.method != start.recipe.method:
            del own["start"]
        try:
            found[name] = recipe, build_space(PluginSpec(spec.kind, own), recipe, layout)
        except (plugins.PluginError, SpaceError) as error:
            error.args = (f"{name}: {error}",)
            raise
    return MergeSpace(found)


def build_space(spec: PluginSpec, recipe: Recipe, layout: Layout) -> SearchSpace:
    """Build the search space for the recipe's method over a layout, see `layout_of`."""
    method = _method(recipe)
    method.check(recipe.options, n_merged(spec, recipe))
    if spec.kind == SPAN and any(p.name == "weight" and p.per_input and p.low >= 0 for p in method.parameters):
        raise SpaceError(
            f"{SPAN} takes weights below 0, and {recipe.method} is for weights from 0 on: use task_arithmetic, or "
            "another space."
        )
    models = (recipe.base, *recipe.inputs) if arranges_blocks(spec) else recipe.inputs
    names = tuple(model.name for model in models)
    options = dict(spec.options)
    if isinstance(options.get("start"), str):
        options["start"] = start_for(_start(options), names, layout)
    space: SearchSpace = plugins.build(
        "search space",
        PluginSpec(spec.kind, options),
        SearchSpace,
        layout=layout,
        inputs=names,
        parameters=[_at_average(parameter, len(names)) for parameter in method.parameters],
    )
    return space


def start_for(merge: Merge, inputs: Sequence[str], layout: Layout) -> CoefficientTable:
    """Return the coefficients of a recipe as the start of a search: by name, else by relative depth.

    Args:
        merge: The recipe, of the same models or of siblings with another number of blocks.
        inputs: Names of the search's models.
        layout: Tensors of its base.

    Raises:
        SpaceError: The recipe merges other models, or its tensors have no counterparts.
    """
    try:
        return merge.table.bind(layout.names)
    except SpaceError as error:
        theirs = [model.name for model in merge.recipe.inputs]
        if sorted(theirs) != sorted(inputs):
            raise SpaceError(
                f"{error} For a start from a model with another number of blocks, its experts need the same names; "
                f"they are {', '.join(theirs)}, and here {', '.join(inputs)}."
            ) from error
        found = carried_over(merge.table, layout)
        order = [theirs.index(name) for name in inputs]
        values = {
            name: array[:, order] if array.shape[1] == len(order) else array for name, array in found.values.items()
        }
        return CoefficientTable(found.groups, values)


def _method(recipe: Recipe) -> MergeMethod:
    method: MergeMethod = plugins.load("merge method", recipe.method, MergeMethod)
    return method


def _start(options: Mapping[str, Any]) -> Merge:
    return read_merge(Path(options["start"]), allow_code=True)


def _check_parameters(options: Mapping[str, Any], methods: Mapping[str, MergeMethod]) -> None:
    """Check that every parameter in the options belongs to a method. Raises SpaceError."""
    known = {parameter.name for method in methods.values() for parameter in method.parameters}
    rows = [row for row in _mapping(options.get("freeze")).values() if isinstance(row, Mapping)]
    for name in (*_mapping(options.get("ranges")), *(name for row in rows for name in row)):
        if name not in known:
            raise SpaceError(
                f"No parameter named {name!r} in any of {', '.join(methods)}; they have {', '.join(sorted(known))}."
            )


def _own_options(options: Mapping[str, Any], method: MergeMethod) -> dict[str, Any]:
    """Return a space's options without the parameters that a method lacks."""
    known = {parameter.name for parameter in method.parameters}
    own = dict(options)
    if isinstance(options.get("ranges"), Mapping):
        own["ranges"] = {name: bounds for name, bounds in options["ranges"].items() if name in known}
    if isinstance(options.get("freeze"), Mapping):
        own["freeze"] = {
            group: {name: value for name, value in row.items() if name in known} if isinstance(row, Mapping) else row
            for group, row in options["freeze"].items()
        }
    return own


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}


def _at_average(parameter: Parameter, n_inputs: int) -> Parameter:
    # The method's default weight of 1 per model would sum all models; a search starts at their mean.
    if parameter.name == "weight" and parameter.per_input:
        return replace(parameter, default=1.0 / n_inputs)
    return parameter
