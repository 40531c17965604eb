"""The generated pages of the documentation: `python docs/generate.py` writes them, a test compares them."""

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import evomerge
from evomerge.cli import app
from evomerge.commands.plugin_cards import cards, markdown
from evomerge.config.schema import search_schema

REFERENCE = Path(__file__).parent / "reference"
#: Classes and functions of the Python interface beside the public names of `evomerge`.
CONTRACTS = (
    "evomerge.training:SearchMerge",
    "evomerge.optimizers.base:Optimizer",
    "search_spaces.base:SearchSpace",
    "evaluators.base:Evaluator",
    "evaluators.base:Scores",
    "evomerge.merging.method:merge_method",
)
#: Choices of a key that are listed in its row; there are tables of plug-ins.
MOST_CHOICES = 6
PLUGINS = {"optimizer": "Optimizers", "evaluator": "Evaluators", "search space": "Search spaces"}
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):$", re.MULTILINE)


def pages() -> dict[str, str]:
    """Return the text of every generated page by its name."""
    return {
        "commands.md": _commands(),
        "search-file-keys.md": _keys(),
        "plug-ins.md": _plugins(),
        "python-api.md": _api(),
    }


def _page(title: str, source: str, *parts: str) -> str:
    note = f"This page is generated from {source} by `python docs/generate.py`."
    return "\n\n".join((f"# {title}", note, *parts)) + "\n"


def _commands() -> str:
    found = [part for name, command in _visible(typer.main.get_command(app)) for part in _command(name, command)]
    return _page("Commands", "the command line", "With `--help`, each command prints the same in a terminal.", *found)


def _visible(group: Any, before: str = "evomerge") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _visible(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def _command(name: str, command: Any) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    rows = ["| argument or option | meaning |", "| --- | --- |"]
    records = [each.get_help_record(context) for each in command.params if not getattr(each, "hidden", False)]
    rows += [_row(f"`{record[0]}`", record[1]) for record in records if record]
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    return [f"## `{name}`", f"Usage: `{name} {usage}`", text, "\n".join(rows)]


def _keys() -> str:
    schema = search_schema()
    rows = ["| key | meaning | default | form |", "| --- | --- | --- | --- |"]
    details = []
    for key, reference in schema["properties"].items():
        entry = schema["$defs"][key] if "$ref" in reference else reference
        default = f"`{_value(entry['default'])}`" if "default" in entry else ""
        rows.append(_row(f"`{key}`", entry.get("description", ""), default, _form(entry, schema["$defs"])))
    for name, entry in schema["$defs"].items():
        fields = entry.get("properties", {})
        if name in schema["properties"] or not fields or not any("description" in each for each in fields.values()):
            continue
        inner = ["| key | meaning | default |", "| --- | --- | --- |"]
        for key, value in fields.items():
            default = f"`{_value(value['default'])}`" if value.get("default") is not None else ""
            inner.append(_row(f"`{key}`", value.get("description", ""), default))
        details += [f"## {name}", str(entry.get("description", "")), "\n".join(inner)]
    about = (
        "[Search files](../search-files.md) explains them with examples. `evomerge schema` prints the JSON schema, "
        "with which editors complete and check search files; `evomerge check` knows more, such as which options a "
        "plug-in takes."
    )
    return _page("Keys of a search file", "the schema of search files", about, "\n".join(rows), *filter(None, details))


def _form(entry: dict[str, Any], defs: dict[str, Any]) -> str:
    """Describe the type of a key in a few words."""
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        return f"see [{name}](#{name.lower()})" if "properties" in defs.get(name, {}) else name
    if len(entry.get("enum", ())) > MOST_CHOICES:
        return "a name"
    if "enum" in entry:
        return " or ".join(f"`{_value(value)}`" for value in entry["enum"])
    kinds = [_form(each, defs) for each in entry.get("anyOf", entry.get("oneOf", ()))]
    if kinds:
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind))
    words = {"object": "mapping", "array": "list", "string": "text", "null": "null", "integer": "whole number"}
    kind = entry.get("type", "")
    return ", ".join(words.get(each, each) for each in ([kind] if isinstance(kind, str) else kind))


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _plugins() -> str:
    about = (
        "`evomerge list KIND NAME` prints everything about one of them, `evomerge list KIND --markdown` these tables. "
        "Merge methods have [a table of their own](../../evomerge/merging/methods/TABLE.md)."
    )
    parts = [about]
    for what, title in PLUGINS.items():
        parts += [f"## {title}", markdown(what, cards(what))]
    return _page("Optimizers, evaluators and search spaces", "the plug-ins", *parts)


def _api() -> str:
    public = [f"evomerge:{name}" for name in evomerge.__all__ if not name.startswith("_")]
    parts = ["Public names of `evomerge`, the callback for trainings, and the contracts of plug-ins."]
    for address in (*public, *CONTRACTS):
        module, _, name = address.partition(":")
        parts += _documented(getattr(importlib.import_module(module), name), name, module)
    return _page("Python API", "the docstrings", *parts)


def _documented(found: Any, name: str, module: str) -> list[str]:
    parts = [f"## `{name}`", f"    from {module} import {name}", f"`{name}{_signature(found)}`", _docstring(found)]
    if inspect.isclass(found):
        for each, member in vars(found).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            described = inspect.isfunction(function) or isinstance(function, property)
            if not each.startswith("_") and described and inspect.getdoc(function):
                call = "" if isinstance(function, property) else _signature(function)
                parts += [f"### `{name}.{each}`", *([f"`{each}{call}`"] if call else []), _docstring(function)]
    return parts


def _signature(found: Any) -> str:
    try:
        text = str(inspect.signature(found))
    except ValueError:
        return ""
    text = re.sub(r"<function .*? at 0x[0-9a-f]+>|<factory>|<[^>]*>", "...", text)
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace("'", "")


def _docstring(found: Any) -> str:
    """Return a docstring as Markdown: its sections become headings in bold, examples become blocks."""
    pieces = _SECTION.split(inspect.getdoc(found) or "")
    parts = [_escaped(pieces[0].strip())]
    for heading, body in zip(pieces[1::2], pieces[2::2], strict=True):
        text = textwrap.dedent(body.strip("\n"))
        parts.append(f"**{heading}**")
        if heading == "Example":
            parts.append(textwrap.indent(text.rstrip(), "    "))
        elif heading == "Returns":
            parts.append(_escaped(text.strip()))
        else:
            entries = [each for each in re.split(r"\n(?=\S)", text.strip()) if each]
            parts.append("\n".join("* " + " ".join(_escaped(each).split()) for each in entries))
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """Keep angle brackets, which Markdown would take for HTML, and stars of arguments."""
    return re.sub(r"(`[^`]*`)|[<*]", lambda match: match[1] or f"\\{match[0]}", text)


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    for page, content in pages().items():
        (REFERENCE / page).write_text(content, encoding="utf-8")
