"""`evomerge list`: the available plug-ins with their requirements and options."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evaluators._nearest import did_you_mean
from evomerge import plugins
from evomerge.commands.plugin_cards import PluginCard, cards
from evomerge.merging.catalogue import Entry, catalogue, coefficients, entry
from evomerge.plugins import PluginError


def overview(kinds: Mapping[str, str]) -> tuple[dict[str, list[str]], Table]:
    """List the names of all plug-ins, as plain data and as a table. kinds: name on the command line -> kind."""
    found = {kind: list(plugins.names(what)) for kind, what in kinds.items()}
    return found, _card({kind: ", ".join(names) for kind, names in found.items()})


def describe(kinds: Mapping[str, str], kind: str, name: str | None) -> tuple[list[dict[str, Any]], RenderableType]:
    """Describe all plug-ins of a kind, or one of them, as plain data and as a table. Raises PluginError."""
    if kind not in kinds:
        owners = [each for each, sort in kinds.items() if kind in plugins.names(sort)]
        raise PluginError(
            f"No kind of plug-in named {kind!r}; there are {', '.join(kinds)}.{did_you_mean(kind, kinds)}"
            + "".join(f" `evomerge list {owner} {kind}` describes it." for owner in owners)
        )
    what = kinds[kind]
    if what == "merge method":
        methods = catalogue() if name is None else [entry(name)]
        return [asdict(item) for item in methods], _card(_rows(methods[0])) if name else _table(methods)
    found = cards(what, name)
    text = _card(_plugin_rows(what, found[0])) if name else _plugin_table(what, found)
    return [asdict(item) for item in found], text


def _table(found: list[Entry]) -> Table:
    table = Table("method", "needs", "coefficients [search bounds]", "linear in")
    for item in found:
        table.add_row(
            Text(item.name),
            ", ".join(item.needs),
            "\n".join(coefficients(item)),
            ", ".join(item.linear_in),
        )
    return table


def _plugin_table(what: str, found: list[PluginCard]) -> Table:
    takes = any(item.takes for item in found)
    table = Table(what, "what it is", *(["takes"] if takes else []), "options", show_lines=True)
    for item in found:
        needs = [Text(item.takes)] if takes else []
        table.add_row(Text(item.name), Text(item.title), *needs, Text(", ".join(item.options) or "none"))
    return table


def _plugin_rows(what: str, item: PluginCard) -> dict[str, str]:
    options = "\n".join(item.options) or "none"
    return {
        what: item.name,
        "what": item.title,
        "takes": item.takes,
        "options": options,
        "about": item.about,
        "more": item.more,
    }


def _rows(item: Entry) -> dict[str, str]:
    return {
        "method": item.name,
        "what": item.summary,
        "paper": f"{item.title}, {item.reference}",
        "needs": ", ".join(item.needs),
        "coefficients": "\n".join(coefficients(item)) or "none",
        "linear in": ", ".join(item.linear_in) or "none",
        "gradient by": ", ".join(item.gradient_by) or "none",
        "options": "\n".join(item.options) or "none",
        "compat": item.compat,
    }


def _card(rows: Mapping[str, str]) -> Table:
    table = Table(show_header=False, box=None)
    for key, value in rows.items():
        if value:
            table.add_row(Text(key), Text(value))
    return table
