"""Write a merge as a mergekit configuration, where mergekit can express it.

Schema: https://github.com/arcee-ai/mergekit/blob/main/README.md. A coefficient there is a number or a list of
{filter, value}: a filter is a plain substring of the tensor name, the first that matches wins, and `*` takes
the rest. mergekit's `lambda` is our `scale`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from evomerge import plugins, strict_yaml
from evomerge.merging.method import MergeMethod
from evomerge.recipe import Input, Merge

#: Methods that mergekit has, and the options that mean the same there.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "linear": ("normalize",),
    "task_arithmetic": ("normalize",),
    "slerp": (),
    "ties": ("normalize",),
    "dare_linear": ("normalize",),
    "dare_ties": ("normalize",),
    "passthrough": (),
}
_WITHOUT_BASE = ("linear", "passthrough")
#: Options that mergekit lacks: only its own way can be written.
_ONLY = {"compat": "mergekit", "election": "total"}

Arguments = dict[str, Any]


class InteropError(ValueError):
    """A merge that mergekit cannot express; the message says which part."""


def to_mergekit(merge: Merge, *, out_dtype: str | None = None) -> dict[str, Any]:
    """mergekit's configuration of a merge whose table names its tensors (`CoefficientTable.bind`).

    out_dtype: type of the merged weights where the recipe leaves it to the base. Arithmetic is in float32.
    Raises InteropError for what cannot be expressed.
    """
    recipe = merge.recipe
    if recipe.method not in _OPTIONS:
        raise InteropError(f"mergekit has no method {recipe.method!r} as evomerge means it.")
    method: MergeMethod = plugins.load("merge method", recipe.method, MergeMethod)
    options = {**method.options, **recipe.options}
    per_tensor = {name: _arguments(merge, method, options, name) for name in _tensors(merge)}
    per_input = [parameter.name for parameter in method.parameters if parameter.per_input]
    shared = [parameter.name for parameter in method.parameters if not parameter.per_input]
    models = [
        {
            "model": _reference(model),
            "parameters": {name: _setting({t: a[name][i] for t, a in per_tensor.items()}) for name in per_input},
        }
        for i, model in enumerate(recipe.inputs)
    ]
    if recipe.method == "slerp":
        models = [{"model": _reference(model)} for model in (recipe.base, *recipe.inputs)]
    parameters = {
        **_options(recipe.method, options),
        **{_foreign(name): _setting({t: a[name] for t, a in per_tensor.items()}) for name in shared},
    }
    config: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.method not in _WITHOUT_BASE:
        config["base_model"] = _reference(recipe.base)
    config |= {"models": models}
    if parameters:
        config["parameters"] = parameters
    config["dtype"] = "float32"
    if recipe.dtype or out_dtype:
        config["out_dtype"] = recipe.dtype or out_dtype
    if recipe.tokenizer is not None:
        named = {model.name: model for model in recipe.inputs}.get(recipe.tokenizer)
        config["tokenizer"] = {"source": _reference(named) if named else recipe.tokenizer}
    return config


def dump(merge: Merge, *, out_dtype: str | None = None) -> str:
    """The text of `mergekit_config.yml`. Raises InteropError for what cannot be expressed."""
    text = strict_yaml.dump(to_mergekit(merge, out_dtype=out_dtype))
    notes = ["# Run it with mergekit-yaml. recipe.yaml is the exact record of this merge."]
    if merge.recipe.method.startswith("dare"):
        notes.append("# mergekit draws other random masks: the weights agree in distribution, not one by one.")
    return "\n".join([*notes, text])


def _tensors(merge: Merge) -> list[str]:
    names = [name for members in merge.table.groups.values() for name in members]
    if len(merge.table.groups) > 1:
        for name in names:
            if any(character in name for character in "*?["):
                raise InteropError(
                    f"The group pattern {name!r} has no equal in mergekit: bind the table to tensor names."
                )
    return names


def _arguments(merge: Merge, method: MergeMethod, options: Mapping[str, Any], tensor: str) -> Arguments:
    arguments = method.arguments(merge.table.at(tensor), len(merge.recipe.inputs))
    if options.get("rescale") == "paper":
        # mergekit rescales to the same L1 norm; dividing the weight by the density is the paper's rescaling.
        if options.get("normalize"):
            raise InteropError("mergekit cannot combine normalize with DARE's own rescaling (rescale: paper).")
        pairs = zip(arguments["weight"], arguments["density"], strict=True)
        arguments["weight"] = tuple(weight / density if density else 0.0 for weight, density in pairs)
    return arguments


def _options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    known = _OPTIONS[method]
    written: dict[str, Any] = {name: options[name] for name in known if name in options}
    for name, value in options.items():
        if name == "rescale":
            written["rescale"] = value == "mergekit"
        elif name not in known and _ONLY.get(name) != value:
            raise InteropError(f"mergekit's {method} cannot express {name}: {value!r}.")
    return written


def _foreign(parameter: str) -> str:
    return "lambda" if parameter == "scale" else parameter


def _reference(model: Input) -> str:
    if "@" in model.path or "+" in model.path:
        raise InteropError(f"mergekit cannot name a model whose path has '@' or '+' in it: {model.path!r}.")
    return model.path if model.revision is None else f"{model.path}@{model.revision}"


def _setting(values: Mapping[str, float]) -> float | list[dict[str, Any]]:
    """One number where all tensors agree; else filters, the most common value last, for all that is left."""
    (common, count), *_ = Counter(values.values()).most_common(1)
    if count == len(values):
        return common
    by_prefix = _filters(values, common, "")
    # Without "model." or "transformer." in front the filters also fit where these are left out.
    root = Counter(name.partition(".")[0] for name in values).most_common(1)[0][0] + "."
    all_bare = [(text.removeprefix(root), value) for text, value in by_prefix]
    blocks_bare = [(text.removeprefix(root) if text.endswith(".") else text, value) for text, value in by_prefix]
    for filters in (all_bare, blocks_bare, by_prefix):
        if all(_first_match(filters, name, common) == value for name, value in values.items()):
            return _listed(filters, common)
    # A longer name is never part of a shorter one, so each name finds its own filter first.
    return _listed(sorted(values.items(), key=lambda item: -len(item[0])), common)


def _filters(values: Mapping[str, float], common: float, prefix: str) -> list[tuple[str, float]]:
    """Filters for all but the most common value: a prefix, to its dot, where all tensors under it agree."""
    if (len(values) > 1 and prefix and len(set(values.values())) == 1) or set(values) == {prefix}:
        value = next(iter(values.values()))
        return [] if value == common else [(prefix, value)]
    parts: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        head, dot, _ = name.removeprefix(prefix).partition(".")
        parts.setdefault(prefix + head + dot, {})[name] = value
    return [entry for start, members in parts.items() for entry in _filters(members, common, start)]


def _first_match(filters: list[tuple[str, float]], name: str, otherwise: float) -> float:
    return next((value for text, value in filters if text in name), otherwise)


def _listed(filters: list[tuple[str, float]], common: float) -> list[dict[str, Any]]:
    return [{"filter": text, "value": value} for text, value in filters] + [{"value": common}]
