"""The catalogue of merge methods, from their own declarations, as data and as a table."""

import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from evomerge import plugins
from evomerge.merging.method import MergeMethod
from search_spaces.base import Parameter

#: Column headings of the table in the documentation.
COLUMNS = (
    "method",
    "what it does",
    "paper",
    "needs",
    "coefficients [search bounds]",
    "linear in",
    "gradient by",
    "compat and options",
)

_ADDRESS = re.compile(r"\s*https?://\S+$")


@dataclass(frozen=True)
class Entry:
    """A description of one merge method. title: name and authors. compat: how implementations differ, if they do."""

    name: str
    title: str
    summary: str
    reference: str
    needs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    linear_in: tuple[str, ...]
    gradient_by: tuple[str, ...]
    options: tuple[str, ...]
    compat: str


def catalogue() -> list[Entry]:
    """Return all merge methods, by name."""
    return [entry(name) for name in plugins.names("merge method")]


def entry(name: str) -> Entry:
    """Return one merge method. Raises PluginError if there is none."""
    method: MergeMethod = plugins.load("merge method", name, MergeMethod)
    paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(method.kernel) or "").split("\n\n")]
    module = importlib.import_module(method.module)
    title = (module.__doc__ or "").splitlines()[0].removesuffix(".")
    return Entry(
        name=name,
        title=_ADDRESS.sub("", title).rstrip(". "),
        summary=paragraphs[0],
        reference=method.reference,
        needs=_needs(method),
        parameters=method.parameters,
        linear_in=method.linear_in,
        gradient_by=method.gradient.parameters,
        options=tuple(
            option_text(option, value, method.option_types[option]) for option, value in method.options.items()
        ),
        compat=next((part.removeprefix("compat:").strip() for part in paragraphs if part.startswith("compat:")), ""),
    )


def coefficients(found: Entry) -> tuple[str, ...]:
    """Format parameters as `weight 1 [0, 1] per input`: default and search bounds, or fixed if not searched."""
    return tuple(
        f"{p.name} {p.default:g} "
        + ("(fixed)" if p.low == p.high else f"[{p.low:g}, {p.high:g}]")
        + (" per input" if p.per_input else "")
        for p in found.parameters
    )


def option_text(name: str, default: object, kind: Any) -> str:
    """Format an option with its default and its other choices."""
    choices = [choice for choice in get_args(kind) if choice != default] if get_origin(kind) is Literal else []
    return f"{name}: {_shown(default)}" + (f" (or {', '.join(map(_shown, choices))})" if choices else "")


def markdown(entries: Sequence[Entry]) -> str:
    """Return the table for the documentation."""
    lines = [table_row(COLUMNS), table_row(["---"] * len(COLUMNS))]
    for found in entries:
        remarks = [part for part in (found.compat, "; ".join(f"`{option}`" for option in found.options)) if part]
        lines.append(
            table_row(
                [
                    f"`{found.name}`",
                    found.summary,
                    f"[{found.title}]({found.reference})",
                    ", ".join(found.needs),
                    "<br>".join(coefficients(found)) or "none",
                    ", ".join(found.linear_in) or "none",
                    ", ".join(found.gradient_by) or "none",
                    "<br>".join(remarks),
                ]
            )
        )
    return "\n".join(lines)


def _needs(method: MergeMethod) -> tuple[str, ...]:
    low, high = method.min_inputs, method.max_inputs
    count = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
    uses_base = method.operates_on == "deltas" or "base" in method.kernel_takes | method.prepare_takes
    needs = ["base" if uses_base else "no base", f"{count} input{'' if (low, high) == (1, 1) else 's'}"]
    needs += [f"statistics: {kind}" for kind in method.needs]
    needs += ["seed"] if method.random else []
    needs += ["whole model first"] if method.survey is not None else []
    return tuple(needs + (["whole tensors"] if method.whole else []))


def _shown(value: object) -> str:
    """Format a value as in a YAML file."""
    if isinstance(value, str):
        return value if value.strip() else repr(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def table_row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
