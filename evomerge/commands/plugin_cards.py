"""Descriptions of evaluators, optimizers and search spaces from their docstrings and signatures."""

import importlib
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from evaluators.base import Evaluator
from evomerge import plugins
from evomerge.merging.catalogue import option_text, table_row
from evomerge.optimizers.base import Optimizer
from search_spaces.base import SearchSpace

#: A sentence about errors, which only programmers need.
_RAISES = re.compile(r"(?:^|(?<=\.))\s*Raises [`A-Z].*?(?:\.(?=\s|\Z)|\Z)", re.MULTILINE | re.DOTALL)
#: The heading of a section of a Google-style docstring, and the names that begin an entry of its arguments.
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Example):\n")
_ADDRESS = re.compile(r"https?://\S+")
_ENTRY = re.compile(r"^(?=\w[\w, *]*: )", re.MULTILINE)

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
    """Describe all plug-ins of a kind, or the one of this name. Raises PluginError for an unknown name."""
    return [_card(what, each) for each in (plugins.names(what) if name is None else [name])]


def markdown(what: str, found: Sequence[PluginCard]) -> str:
    """Return the table of a kind of plug-in for the documentation."""
    takes = any(card.takes for card in found)
    columns = [what, "what it is", *(["takes"] if takes else []), "options"]
    lines = [table_row(columns), table_row(["---"] * len(columns))]
    for card in found:
        title = _ADDRESS.sub(lambda address: f"<{address[0].rstrip('.')}>", card.title)
        options = "<br>".join(f"`{option}`" for option in card.options)
        lines.append(table_row([f"`{card.name}`", title, *([card.takes] if takes else []), options]))
    return "\n".join(lines)


def _card(what: str, name: str) -> PluginCard:
    kind: type = plugins.load(what, name, _CONTRACTS[what])
    title, _, more = inspect.cleandoc(importlib.import_module(kind.__module__).__doc__ or "").partition("\n")
    return PluginCard(
        name, title.removesuffix("."), _takes(kind), tuple(_options(what, kind)), _about(what, kind), more.strip()
    )


def _about(what: str, kind: type) -> str:
    """Describe a class and its options; without a constructor of its own, with the options of its contract."""
    own, contract = vars(kind).get("__init__"), _CONTRACTS[what]
    names = [p.name for p in _own_parameters(what, kind)]
    described = [*_paragraphs(kind.__doc__, names), *_paragraphs(None if own is None else own.__doc__, names)]
    if own is None:
        described += [each for each in [_arguments(inspect.cleandoc(contract.__doc__ or ""), names)] if each]
    return "\n\n".join(described)


def _paragraphs(docstring: str | None, names: Collection[str]) -> list[str]:
    """Split a docstring into paragraphs: its prose, and its entries for the arguments `names`."""
    text = inspect.cleandoc(docstring or "")
    prose = _SECTION.split(text)[0].split("\n\n")
    paragraphs = [*(_RAISES.sub("", each).strip() for each in prose), _arguments(text, names)]
    return [each for each in paragraphs if each]


def _arguments(text: str, names: Collection[str]) -> str:
    """Return the entries of the section `Args` for the arguments `names`."""
    sections = _SECTION.split(text)
    for heading, body in zip(sections[1::2], sections[2::2], strict=True):
        if heading == "Args":
            entries = (each.strip() for each in _ENTRY.split(textwrap.dedent(body)))
            return "\n".join(e for e in entries if not set(names).isdisjoint(e.partition(": ")[0].split(", ")))
    return ""


def _own_parameters(what: str, kind: type) -> Iterator[inspect.Parameter]:
    """Yield the parameters of a constructor except those that every plug-in is given."""
    contract = inspect.signature(_CONTRACTS[what]).parameters.values()
    given = [p.name for p in contract if p.kind is p.POSITIONAL_OR_KEYWORD]
    yield from (p for p in inspect.signature(kind).parameters.values() if p.name not in given)


def _options(what: str, kind: type) -> Iterator[str]:
    """Yield the options of a plug-in with their defaults."""
    for p in _own_parameters(what, kind):
        if p.kind is p.VAR_KEYWORD:
            yield "any other"
        else:
            yield f"{p.name}: required" if p.default is p.empty else option_text(p.name, p.default, p.annotation)


def _takes(kind: type) -> str:
    """Describe the requirement of a plug-in on the search."""
    if issubclass(kind, Optimizer):
        low, high = kind.min_objectives, kind.max_objectives
        count = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        return f"{count} objective{'' if (low, high) == (1, 1) else 's'}"
    if issubclass(kind, Evaluator):
        if kind.needs_network and not kind.needs_language_model:
            return "a network"
        return "a model that reads text" if kind.needs_language_model else "any model"
    return ""
