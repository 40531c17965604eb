"""Plug-ins by file name: `optimizer: cma_es` is the only concrete class of `evomerge/optimizers/cma_es.py`.

A name with a colon, `my_lab.evals:Trivia`, refers to an external object. There is no registry to edit.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from evaluators._nearest import did_you_mean
from evaluators._own_code import load_module
from evomerge.errors import EvomergeError

PACKAGES: Mapping[str, str] = {
    "search space": "search_spaces",
    "evaluator": "evaluators",
    "optimizer": "evomerge.optimizers",
    "tracker": "evomerge.trackers",
    "merge method": "evomerge.merging.methods",
}


#: Maximum number of plug-ins listed in an error message.
_LISTED = 8


class PluginError(EvomergeError):
    """A plug-in that cannot be found, or that does not support the options given."""


@dataclass(frozen=True)
class PluginSpec:
    """A plug-in as written in a search file: `kind` and the options for its constructor."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: str | Mapping[str, Any], key: str = "kind") -> "PluginSpec":
        """Read a name, or `{key: name, ...options}`, the two forms in search files and ledgers."""
        if isinstance(data, str):
            return cls(data)
        return cls(data[key], {name: value for name, value in data.items() if name != key})

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of options cannot be pickled; its contents can.
        return PluginSpec, (self.kind, dict(self.options))


def names(what: str) -> tuple[str, ...]:
    """Return the sorted names of the plug-ins of one kind ("optimizer", "search space", ...) without importing any.

    `base` and modules whose name starts with an underscore contain no plug-in.
    """
    return _modules(tuple(importlib.import_module(PACKAGES[what]).__path__))


@cache
def _modules(folders: tuple[str, ...]) -> tuple[str, ...]:
    # A search asks hundreds of times, and installed packages do not change.
    found = (module.name for module in pkgutil.iter_modules(folders) if not module.ispkg)
    return tuple(sorted(name for name in found if name != "base" and not name.startswith("_")))


def check_name(what: str, name: str) -> None:
    """Check that a built-in plug-in has this name, without importing any. Raises PluginError with the nearest name."""
    if ":" in name:
        return
    known = names(what)
    if name not in known:
        raise PluginError(
            f"No {what} named {name!r}.{did_you_mean(name, known)} There are {_some(known)} "
            f"in {PACKAGES[what].replace('.', '/')}/, and `module:name` for one of your own."
        )


def load(what: str, name: str, contract: type) -> Any:
    """Load the plug-in `name`: a concrete subclass of `contract`, or an instance of it (merge methods).

    Raises PluginError with the nearest name if there is none.
    """
    check_name(what, name)
    if ":" in name:
        return _load_outside(what, name, contract)
    module = importlib.import_module(f"{PACKAGES[what]}.{name}")
    # Imported classes belong to other modules, and a second name for the same object is not a second plug-in.
    found = {
        id(value): value
        for value in vars(module).values()
        if _is_concrete(value, contract) and (not inspect.isclass(value) or value.__module__ == module.__name__)
    }
    if len(found) != 1:
        raise PluginError(
            f"{module.__name__} must contain exactly one concrete {contract.__name__}; it contains {len(found)}."
        )
    return next(iter(found.values()))


def build(what: str, spec: PluginSpec, contract: type, **given: Any) -> Any:
    """Construct the class named by `spec` from `given` and its own options.

    Raises PluginError for an unknown option, and for a required one that is missing.
    """
    plugin = load(what, spec.kind, contract)
    accepted = inspect.signature(plugin).parameters.values()
    variadic = any(p.kind is p.VAR_KEYWORD for p in accepted)
    named = [p for p in accepted if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    own = [p.name for p in named if p.name not in given]
    for option in spec.options:
        if option in given or (option not in own and not variadic):
            raise PluginError(
                f"{spec.kind!r} has no option {option!r}; it has {', '.join(own) or 'none'}.{did_you_mean(option, own)}"
            )
    missing = [p.name for p in named if p.default is p.empty and p.name not in {**given, **spec.options}]
    if missing:
        raise PluginError(f"{what} {spec.kind!r} needs {', '.join(map(repr, missing))}; give it as an option.")
    try:
        return plugin(**given, **spec.options)
    except TypeError as error:  # an option of another type than the plug-in computes with
        options = ", ".join(f"{name}: {value!r}" for name, value in spec.options.items())
        raise PluginError(
            f"{what} {spec.kind!r} does not accept its options ({options or 'none'}): {error}."
        ) from error


def _is_concrete(value: Any, contract: type) -> bool:
    if inspect.isclass(value):
        return issubclass(value, contract) and not inspect.isabstract(value)
    return isinstance(value, contract)


def _load_outside(what: str, name: str, contract: type) -> Any:
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise PluginError(f"{what} {name!r} needs the form `package.module:name`.")
    try:
        module = load_module(module_name)
    except ImportError as error:
        raise PluginError(f"{what} {name!r} cannot be imported: {error}.") from error
    if not hasattr(module, attribute):
        raise PluginError(f"{what} {name!r}: {module_name} has no {attribute!r}.{did_you_mean(attribute, dir(module))}")
    value = getattr(module, attribute)
    if not _is_concrete(value, contract):
        raise PluginError(f"{what} {name!r} is not a concrete {contract.__name__}: it is {value!r}.")
    return value


def _some(known: Sequence[str]) -> str:
    """Format the first names of many; all of them if only one would be left out, which is no shorter to say."""
    left_out = len(known) - _LISTED
    return ", ".join(known) if left_out <= 1 else f"{', '.join(known[:_LISTED])} and {left_out} more"
