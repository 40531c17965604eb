"""`evomerge methods`: which merge methods there are, and what each of them takes."""

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomerge.merging.catalogue import Entry, catalogue, coefficients, entry, markdown


def describe(name: str | None) -> tuple[list[dict[str, Any]], Group]:
    """Every merge method, or the one of this name, as plain data and for people. Raises PluginError."""
    found = catalogue() if name is None else [entry(name)]
    return [asdict(item) for item in found], Group(*(_card(item) for item in found) if name else [_table(found)])


def as_markdown() -> str:
    """The table of all methods for the documentation."""
    return markdown(catalogue())


def _table(found: list[Entry]) -> Table:
    table = Table("method", "needs", "coefficients [search bounds]", "linear in")
    for item in found:
        table.add_row(
            Text(item.name),
            ", ".join(item.needs),
            "\n".join(map(_plain, coefficients(item))),
            ", ".join(item.linear_in),
        )
    return table


def _card(item: Entry) -> Table:
    table = Table(show_header=False, box=None)
    rows = {
        "method": item.name,
        "what": item.summary,
        "paper": f"{item.title}, {item.reference}",
        "needs": ", ".join(item.needs),
        "coefficients": "\n".join(coefficients(item)) or "none",
        "linear in": ", ".join(item.linear_in) or "none",
        "options": "\n".join(item.options) or "none",
        "compat": item.compat,
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, Text(value))
    return table


def _plain(text: str) -> str:
    # Rich reads square brackets as styles.
    return text.replace("[", "\\[")
