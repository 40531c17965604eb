"""The search space that a search file asks for, over the tensors of its models."""

from dataclasses import replace
from pathlib import Path

from evomerge import plugins
from evomerge.merging.method import MergeMethod
from evomerge.merging.slopes import why_no_gradient
from evomerge.optimizers.base import Optimizer
from evomerge.plugins import PluginSpec
from evomerge.recipe import Recipe
from evomerge.recipe.file import read_merge
from search_spaces.base import Layout, Parameter, SearchSpace


def chosen_space(space: PluginSpec, optimizer: PluginSpec, recipe: Recipe) -> PluginSpec:
    """Return the space that `auto` stands for; any other as it is."""
    if space.kind != "auto":
        return space
    kind: type[Optimizer] = plugins.load("optimizer", optimizer.kind, Optimizer)
    fine = kind.follows_gradients and why_no_gradient(recipe) is None
    return PluginSpec("tensorwise" if fine else "layerwise", space.options)


def build_space(spec: PluginSpec, recipe: Recipe, layout: Layout) -> SearchSpace:
    """Build the search space for the recipe's method over the tensors of `layout`."""
    method: MergeMethod = plugins.load("merge method", recipe.method, MergeMethod)
    names = tuple(model.name for model in recipe.inputs)
    method.check(recipe.options, len(names))
    options = dict(spec.options)
    if isinstance(options.get("start"), str):
        options["start"] = read_merge(Path(options["start"]), allow_code=True).table.bind(layout.names)
    space: SearchSpace = plugins.build(
        "search space",
        PluginSpec(spec.kind, options),
        SearchSpace,
        layout=layout,
        inputs=names,
        parameters=[_at_average(parameter, len(names)) for parameter in method.parameters],
    )
    return space


def _at_average(parameter: Parameter, n_inputs: int) -> Parameter:
    # The method's default weight of 1 per model would sum all models; a search starts at their mean.
    if parameter.name == "weight" and parameter.per_input:
        return replace(parameter, default=1.0 / n_inputs)
    return parameter
