"""Strict YAML: plain data, no tags, no duplicate keys, bounded size; every value has its line number.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `1e-3` is a number;
`yes`, `on`, dates and `07:30` are text. Keys are always text. Merge keys (`<<: *anchor`,
https://yaml.org/type/merge.html) are resolved in PyYAML's order; explicit keys take precedence.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_ALIASES = 50
MAX_ALIASED = 100_000  # values allowed beyond the number of characters of a document
MAX_DIGITS = 40

_STR = "tag:yaml.org,2002:str"
_SCALARS = (
    ("tag:yaml.org,2002:null", re.compile(r"~|null|Null|NULL|", re.ASCII), "~nN"),
    ("tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        "-+.0123456789",
    ),
)

_MERGE = "<<"

Path = tuple[str | int, ...]
_Pairs = dict[str, tuple[yaml.ScalarNode, yaml.Node]]


class StrictYamlError(ValueError):
    """Text that is not valid in this subset of YAML; the message begins with `source:line:`."""

    exit_code = 2  # of a command that ends with this error


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and the line on which each value begins.

    lines: path of keys and indices -> line number, from 1.
    """

    data: Any
    source: str = "data"
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, *path: str | int) -> int | None:
        """Return the line of the value at `path`, or of the nearest enclosing value in the text."""
        return next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)

    def where(self, *path: str | int) -> str:
        """Return `source:line` of the value at `path`, as the start of an error message."""
        line = self.line(*path)
        return self.source if line is None else f"{self.source}:{line}"


def load(
    text: str,
    *,
    source: str = "data",
    max_bytes: int = MAX_BYTES,
    tags: Collection[str] = (),
    scalar: Callable[[yaml.ScalarNode], Any] | None = None,
) -> Document:
    """Read one document. Raises StrictYamlError, with the line, unless it is plain, bounded data.

    tags: allowed tags, on scalars only. scalar: reads scalars instead of the core schema, for formats read as YAML 1.1
    elsewhere; its ValueErrors are reported with the line.
    """
    documents = load_all(text, source=source, max_bytes=max_bytes, tags=tags, scalar=scalar)
    if len(documents) > 1:
        where = documents[1].where()
        raise StrictYamlError(f"{where}: another YAML document begins here; expected a single one.")
    return documents[0] if documents else Document(None, source)


def load_all(
    text: str,
    *,
    source: str = "data",
    max_bytes: int = MAX_BYTES,
    tags: Collection[str] = (),
    scalar: Callable[[yaml.ScalarNode], Any] | None = None,
) -> list[Document]:
    """Read all non-empty documents like `load`. Raises StrictYamlError."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise StrictYamlError(f"{source}: the file has {size} bytes; at most {max_bytes} are allowed.")
    try:
        reader = _Loader(text, source, tags)
        nodes = []
        while reader.check_node() and (node := reader.get_node()) is not None:
            nodes.append(node)
    except yaml.MarkedYAMLError as error:
        raise StrictYamlError(f"{source}{_mistake(error, reader.marks)}") from error
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise StrictYamlError(f"{source}:{line_number}: character {error.character!r} is not allowed.") from error
    documents = []
    for node in nodes:
        builder = _Builder(source, MAX_ALIASED + len(text), scalar)
        documents.append(Document(builder.build(node, ()), source, builder.lines))
    return [document for document in documents if document.data is not None] or documents[:1]


def dump(data: Any, *, inline: bool = False) -> str:
    """Write plain data as YAML, keys in their order; `load` returns the same data, floats bit for bit.

    inline: on one line, to follow a key.
    """
    text: str = yaml.dump(
        data,
        Dumper=_FastDumper if not inline and _is_simple(data) else _Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True if inline else None,
        width=math.inf if inline else 110,
    )
    return text.removesuffix("...\n").removesuffix("\n") if inline else text


class _Loader(yaml.SafeLoader):
    """Composes nodes; rejects tags, too many aliases and too deep nesting before anything is built."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface

    def __init__(self, text: str, source: str, tags: Collection[str]) -> None:
        super().__init__(text)
        self._source = source
        self._tags = tags
        self._aliases = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                self._refuse(event, f"more than {MAX_ALIASES} aliases")
        elif event.tag is not None and not (isinstance(event, yaml.ScalarEvent) and event.tag in self._tags):
            self._refuse(event, f"tag {event.tag!r} is not allowed; write plain data")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH}")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, event: yaml.Event, why: str) -> None:
        raise StrictYamlError(f"{self._source}:{_line(event)}: {why}.")


#: Texts that libyaml writes as PyYAML does; they differ e.g. in keys of more than 128 characters.
_SIMPLE = re.compile(r"[A-Za-z0-9_./+-]{1,100}")


def _is_simple(data: Any) -> bool:
    """Return whether libyaml writes the same text as PyYAML: a mapping or list of simple texts and numbers."""
    if isinstance(data, dict):
        return all(_SIMPLE.fullmatch(key) and _is_simple_value(value) for key, value in data.items())
    return isinstance(data, list) and all(map(_is_simple_value, data))


def _is_simple_value(value: Any) -> bool:
    if isinstance(value, str):
        return _SIMPLE.fullmatch(value) is not None
    return isinstance(value, float | int | None) or _is_simple(value)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as another type."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own interface
        key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's own interface
        return True


#: PyYAML can be installed without libyaml, whose emitter is eight times as fast.
_LIBYAML: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _FastDumper(_LIBYAML):  # type: ignore[misc]
    """Writes simple data as `_Dumper` does."""

    yaml_implicit_resolvers = _Dumper.yaml_implicit_resolvers
    ignore_aliases = _Dumper.ignore_aliases


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # Unicode line breaks do not survive in PyYAML's single quotes.
    style = '"' if re.search("[\\x85\\u2028\\u2029\\ufeff]", text) else None
    return dumper.represent_scalar(_STR, text, style)


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in _SCALARS:
    _whole = re.compile(f"^(?:{_pattern.pattern})$")
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, _whole, [*_first, *([""] if _tag.endswith("null") else [])])


class _Builder:
    """Builds plain data from nodes and records their lines."""

    def __init__(self, source: str, max_values: int, scalar: Callable[[yaml.ScalarNode], Any] | None) -> None:
        self.source = source
        self.lines: dict[Path, int] = {}
        self._max_values = max_values
        self._scalar = scalar or self._core
        self._pairs: dict[int, _Pairs | None] = {}  # by mapping; None while its merge keys are being resolved

    def build(self, node: yaml.Node, path: Path, line: int | None = None) -> Any:
        """Build the value of `node`; `line` is that of its key, if it has one."""
        if len(self.lines) >= self._max_values or len(path) > MAX_DEPTH:
            self._refuse(node, f"aliases expand to more than {self._max_values} values or {MAX_DEPTH} levels")
        self.lines[path] = _line(node) if line is None else line
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self._scalar(cast("yaml.ScalarNode", node))
        except StrictYamlError:
            raise
        except ValueError as error:
            self._refuse(node, str(error))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        pairs = self._resolved(node)
        return {key: self.build(value, (*path, key), _line(key_node)) for key, (key_node, value) in pairs.items()}

    def _resolved(self, node: yaml.MappingNode) -> "_Pairs":
        """Return keys with nodes, merge keys resolved; each mapping is resolved once, so merges cannot multiply."""
        known = self._pairs.setdefault(id(node), {})
        if known is None:
            self._refuse(node, "a mapping is merged into itself")
        if known:
            return known
        self._pairs[id(node)] = None
        own: _Pairs = {}
        merged: _Pairs = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, "a key must be text")
            key = key_node.value
            if key in own:
                self._refuse(key_node, f"duplicate key {key!r} (first at line {_line(own[key][0])})")
            own[key] = (key_node, value_node)
        if _MERGE in own and own[_MERGE][0].style is None:
            for source in reversed(self._sources(*own.pop(_MERGE))):
                merged |= self._resolved(source)
        pairs = merged | own
        self._pairs[id(node)] = pairs
        return pairs

    def _sources(self, key_node: yaml.Node, node: yaml.Node) -> list[yaml.MappingNode]:
        """Return the mappings that a merge key names, highest precedence first."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(source, yaml.MappingNode) for source in sources):
            self._refuse(key_node, "the merge key '<<' takes a mapping or a list of mappings, such as *anchor")
        return list(sources)

    def _core(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.rpartition(":")[2], node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float") and len(text) > MAX_DIGITS:
            self._refuse(node, f"a number of {len(text)} characters is too long; at most {MAX_DIGITS} are read")
        if kind == "int":
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if kind == "float":
            number = float(text) if text[-1:].isdigit() or text[-1:] == "." else math.nan
            if not math.isfinite(number):
                self._refuse(node, f"{text} is not a finite number")
            return number
        return text

    def _refuse(self, node: yaml.Node, why: str) -> NoReturn:
        raise StrictYamlError(f"{self.source}:{_line(node)}: {why}.")


def _mistake(error: yaml.MarkedYAMLError, opened: Sequence[yaml.Mark]) -> str:
    """Describe a syntax error; one within brackets or quotes at the line where they open, as their end may be missing.

    opened: where the collections begin that the parser is in.
    """
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
    line = "" if mark is None else f":{mark.line + 1}"
    begin, what = None, "bracket"
    if str(error.context).startswith("while parsing a flow") and opened:
        begin = opened[-1]
    elif str(error.context).startswith("while scanning a quoted"):
        begin, what = error.context_mark, "quote"
    if mark is None or begin is None or begin.line == mark.line:
        return f"{line}: not valid YAML: {problem}."
    late = f"{problem} in line {mark.line + 1}"
    return f":{begin.line + 1}: not valid YAML: {late}; is the {what} that opens here closed?"


def _line(place: Any) -> int:
    return int(place.start_mark.line) + 1
