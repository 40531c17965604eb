"""What evaluators, optimizers and search spaces say of themselves: one line, what they need, options, documentation."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from evaluators.base import Evaluator
from evomerge import plugins
from evomerge.merging.catalogue import option_text
from evomerge.optimizers.base import Optimizer
from search_spaces.base import SearchSpace

_CONTRACTS: dict[str, type] = {"evaluator": Evaluator, "optimizer": Optimizer, "search space": SearchSpace}


@dataclass(frozen=True)
class PluginCard:
    """A plug-in in words. title: its first line. options: with defaults. about: what it does, and what its
    options mean. more: how it is written in a search file, or where it comes from."""

    name: str
    title: str
    takes: str
    options: tuple[str, ...]
    about: str
    more: str


def cards(what: str, name: str | None = None) -> list[PluginCard]:
    """All plug-ins of a sort, or the one of this name, as `plugins.load` finds it. Raises PluginError."""
    return [_card(what, each) for each in (plugins.names(what) if name is None else [name])]


def _card(what: str, name: str) -> PluginCard:
    kind: type = plugins.load(what, name, _CONTRACTS[what])
    title, _, more = inspect.cleandoc(importlib.import_module(kind.__module__).__doc__ or "").partition("\n")
    # A constructor without words of its own takes what those of its sort take.
    constructor = vars(kind).get("__init__", vars(_CONTRACTS[what]).get("__init__"))
    about = "\n\n".join(
        inspect.cleandoc(text) for text in (kind.__doc__, getattr(constructor, "__doc__", None)) if text
    )
    return PluginCard(name, title.removesuffix("."), _takes(kind), tuple(_options(what, kind)), about, more.strip())


def _options(what: str, kind: type) -> Iterator[str]:
    """Options with their defaults: what is left of a constructor without the arguments that every plug-in is given."""
    contract = inspect.signature(_CONTRACTS[what]).parameters.values()
    given = [p.name for p in contract if p.kind is p.POSITIONAL_OR_KEYWORD]
    for p in inspect.signature(kind).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            yield "any other"
        elif p.name not in given:
            yield f"{p.name}: required" if p.default is p.empty else option_text(p.name, p.default, p.annotation)


def _takes(kind: type) -> str:
    """What a search must have for it."""
    if issubclass(kind, Optimizer):
        low, high = kind.min_objectives, kind.max_objectives
        count = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        return f"{count} objective{'' if (low, high) == (1, 1) else 's'}"
    if issubclass(kind, Evaluator):
        return "a model that reads text" if kind.needs_language_model else "any model"
    return ""
