"""What evaluators, optimizers and search spaces say of themselves: one line, what they need, options, documentation."""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from evaluators.base import Evaluator
from evomerge import plugins
from evomerge.merging.catalogue import option_text
from evomerge.optimizers.base import Optimizer
from search_spaces.base import SearchSpace

#: A sentence about errors, which is for those who write programs.
_RAISES = re.compile(r"(?:^|(?<=\.))\s*Raises [`A-Z].*?(?:\.(?=\s|\Z)|\Z)", re.MULTILINE | re.DOTALL)

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
    return PluginCard(
        name, title.removesuffix("."), _takes(kind), tuple(_options(what, kind)), _about(what, kind), more.strip()
    )


def _about(what: str, kind: type) -> str:
    """The words of a class and of its constructor; one without its own takes the options that its sort has."""
    own, contract = vars(kind).get("__init__"), _CONTRACTS[what]
    if own is not None:
        return "\n\n".join([*_paragraphs(kind.__doc__), *_paragraphs(own.__doc__)])
    options = [p.name for p in inspect.signature(contract).parameters.values() if p.kind is p.KEYWORD_ONLY]
    shared = _paragraphs(getattr(vars(contract).get("__init__"), "__doc__", None))
    explained = [each for each in shared if any(re.search(rf"^{name}: ", each, re.MULTILINE) for name in options)]
    return "\n\n".join([*_paragraphs(kind.__doc__), *explained])


def _paragraphs(docstring: str | None) -> list[str]:
    """Without sentences about errors."""
    paragraphs = (_RAISES.sub("", each).strip() for each in inspect.cleandoc(docstring or "").split("\n\n"))
    return [each for each in paragraphs if each]


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
