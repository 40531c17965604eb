"""mergekit's merge methods as data: the corresponding methods here, and the names of their parameters, both ways.

https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md. Its parameters are either parameters of our
methods, with a value per group of tensors, or options, with one for the whole merge, as declared in the signatures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: Type of a value in the file: a number, an integer, or a boolean.
Kind = Literal["number", "whole", "flag"]
#: Default of a parameter that must be given.
REQUIRED = None


@dataclass(frozen=True)
class Key:
    """A parameter of a mergekit method.

    ours: the parameter or option here; "" for one that does not affect weights. default: mergekit's own.
    each: whether it is per model, so that a model's entry may set it. values: names of its values
    here, if different; missing ones are unsupported.
    """

    ours: str
    default: float | bool | None = REQUIRED
    each: bool = False
    kind: Kind = "number"
    values: Mapping[Any, Any] | None = None

    def native(self, value: Any) -> Any:
        """Convert mergekit's value to ours. Raises KeyError for an unsupported one."""
        return value if self.values is None else self.values[value]

    def foreign(self, value: Any) -> Any:
        """Convert our value to mergekit's. Raises KeyError for one that it lacks."""
        if self.values is None:
            return value
        return {ours: theirs for theirs, ours in self.values.items()}[value]


@dataclass(frozen=True)
class Row:
    """A method of mergekit.

    ours: its name here. base: whether it merges differences to a base model. keys: its parameters.
    fixed: options of ours that reproduce mergekit's weights. with_base: the same for an optional base,
    for a merge with one and without. by_density: whether DARE's own rescaling, which mergekit lacks, is
    equivalent to weights divided by densities. elects: whether signs are elected; with normalize, mergekit divides by a
    sum in which negative weights cancel others, unlike here.
    """

    ours: str
    base: Literal["required", "optional", "none"]
    keys: Mapping[str, Key]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    with_base: Mapping[bool, Mapping[str, Any]] = field(default_factory=lambda: {True: {}, False: {}})
    by_density: bool = False
    elects: bool = False


def _flag(ours: str, default: bool, values: Mapping[Any, Any] | None = None) -> Key:
    return Key(ours, default, kind="flag", values=values)


_WEIGHT = Key("weight", each=True)
_DENSITY = Key("density", 1.0, each=True)
_LAMBDA = Key("scale", 1.0)
#: No effect on float32 masks.
_INT8 = {"int8_mask": _flag("", False)}
_EPSILON = Key("epsilon", 0.15, each=True)
_GAMMA = Key("gamma", 0.01, each=True)
_MERGEKIT = {"compat": "mergekit"}
#: Angles are between deltas if there is a base.
_RELATIVE = {True: {"relative_to_base": True}, False: {"relative_to_base": False}}


def _only(default: float | bool) -> Key:
    """Return a key that is unsupported here but has no effect at its default."""
    return Key("", default, kind="flag" if isinstance(default, bool) else "number", values={default: default})


def _rescale(default: bool) -> Key:
    return _flag("rescale", default, {True: "mergekit", False: "none"})


def _deltas(
    ours: str,
    *,
    normalize: bool,
    fixed: Mapping[str, Any] | None = None,
    by_density: bool = False,
    elects: bool = False,
    **keys: Key,
) -> Row:
    """Return a row of the family that sums weighted task vectors."""
    own = {"weight": _WEIGHT, "density": _DENSITY, "normalize": _flag("normalize", normalize), "lambda": _LAMBDA}
    return Row(ours, "required", own | keys | _INT8, fixed or {}, by_density=by_density, elects=elects)


#: mergekit's name -> its method.
METHODS: Mapping[str, Row] = {
    "linear": Row("linear", "none", {"weight": _WEIGHT, "normalize": _flag("normalize", True)}),
    "slerp": Row("slerp", "required", {"t": Key("t")}),
    "nuslerp": Row(
        "nuslerp",
        "optional",
        {
            "weight": _WEIGHT,
            "nuslerp_flatten": _flag("flatten", True),
            # There, true means vectors along the first dimension, false along the last.
            "nuslerp_row_wise": _flag("row_wise", False, {True: False, False: True}),
        },
        with_base=_RELATIVE,
    ),
    "multislerp": Row(
        "multislerp",
        "optional",
        {"weight": _WEIGHT, "normalize_weights": _flag("normalize", True), "eps": _only(1e-8)},
        with_base=_RELATIVE,
    ),
    "karcher": Row("karcher", "none", {"max_iter": Key("max_iter", 10, kind="whole"), "tol": Key("tol", 1e-5)}),
    "task_arithmetic": _deltas(
        "task_arithmetic",
        normalize=False,
        density=Key("", 1.0, each=True),
        rescale=_flag("", False),
    ),
    "ties": _deltas("ties", normalize=True, rescale=_rescale(default=False), fixed=_MERGEKIT, elects=True),
    "dare_linear": _deltas("dare_linear", normalize=False, rescale=_rescale(default=True), by_density=True),
    "dare_ties": _deltas(
        "dare_ties", normalize=False, rescale=_rescale(default=True), fixed=_MERGEKIT, by_density=True, elects=True
    ),
    "breadcrumbs": _deltas(
        "breadcrumbs", normalize=False, rescale=_rescale(default=False), gamma=_GAMMA, fixed=_MERGEKIT
    ),
    "breadcrumbs_ties": _deltas(
        "breadcrumbs_ties",
        normalize=False,
        rescale=_rescale(default=False),
        gamma=_GAMMA,
        fixed=_MERGEKIT,
        elects=True,
    ),
    "della": _deltas(
        "della", normalize=True, rescale=_rescale(default=True), epsilon=_EPSILON, fixed=_MERGEKIT, elects=True
    ),
    "della_linear": _deltas(
        "della_linear", normalize=False, rescale=_rescale(default=True), epsilon=_EPSILON, fixed=_MERGEKIT
    ),
    "sce": Row("sce", "required", {"select_topk": Key("select_topk", 1.0)} | _INT8, _MERGEKIT),
    "model_stock": Row(
        "model_stock", "required", {"filter_wise": _flag("filter_wise", False)}, _MERGEKIT | {"clamp": False}
    ),
    "nearswap": Row("nearswap", "required", {"t": Key("t")}),
    "arcee_fusion": Row("arcee_fusion", "required", {}),
    "ram": Row("ram", "required", {"epsilon": Key("epsilon", 1e-5)}),
    "ramplus_tl": Row(
        "ram_plus", "required", {"r": Key("r", 0.1), "alpha": Key("alpha", 0.2), "epsilon": Key("epsilon", 1e-5)}
    ),
    "passthrough": Row("passthrough", "none", {"scale": Key("scale", 1.0, each=True)}),
}
#: Our name -> mergekit's.
NAMES: Mapping[str, str] = {row.ours: name for name, row in METHODS.items()}
