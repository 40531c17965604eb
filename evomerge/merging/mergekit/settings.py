"""Values of mergekit's parameters: numbers, gradients along the layers, filters by tensor name; reading and writing.

https://github.com/arcee-ai/mergekit#parameter-specification. A filter is a plain substring of the tensor's name; the
first match applies, and `*` or none matches the rest.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators._strict_yaml import Path
from evomerge.merging.mergekit.methods import Kind
from evomerge.yaml.reader import Reader

#: Boolean values; as keys, True, 1 and 1.0 are the same.
_FLAGS: Mapping[str | int | float, bool] = {
    **dict.fromkeys((1, "true", "yes", "on", "y", "t", "1"), True),
    **dict.fromkeys((0, "false", "no", "off", "n", "f", "0"), False),
}
_CONDITION = ("value", "filter")


@dataclass(frozen=True)
class Setting:
    """One parameter as written in the file: (filter, values along the layers), of which the first match applies.

    A filter of None matches every tensor. Several values are the points of a polyline from the first layer of a slice
    to its last.
    """

    rules: tuple[tuple[str | None, tuple[Any, ...]], ...]
    kind: Kind

    @property
    def constant(self) -> bool:
        """Whether the value is the same for all tensors."""
        return len(self.rules) == 1 and self.rules[0][0] is None and len(self.rules[0][1]) == 1

    def at(self, tensor: str, depth: float) -> Any:
        """Return the value for a tensor at `depth` in [0, 1] of its slice; None if nothing matches."""
        for text, values in self.rules:
            if text is None or text in tensor:
                return _along(values, depth, self.kind) if values else None
        return None


def read_setting(reader: Reader, data: Any, path: Path, kind: Kind) -> Setting:
    """Read the setting at `path` of a document, with values of `kind`."""
    if isinstance(data, list) and any(isinstance(entry, dict) for entry in data):
        return Setting(tuple(_rule(reader, entry, (*path, n), kind) for n, entry in enumerate(data)), kind)
    if isinstance(data, dict):
        return Setting((_rule(reader, data, path, kind),), kind)
    values = _values(reader, data, path, kind)
    return Setting(((None, values),) if values else (), kind)


def read_flag(reader: Reader, data: Any, path: Path) -> bool:
    """Read a boolean like mergekit: also a number equal to 0 or 1, which mergekit-evolve writes, or a word."""
    word = data.lower() if isinstance(data, str) else data
    if not isinstance(word, str | int | float) or word not in _FLAGS:
        reader.refuse(path, f"expected true or false (or 1, 0); got {data!r}")
    return _FLAGS[word]


def write_setting(values: Mapping[str, Any]) -> Any:
    """Return the setting that gives each tensor its value: one value if all agree, else filters, the commonest last."""
    (common, count), *_ = Counter(values.values()).most_common(1)
    if count == len(values):
        return common
    by_prefix = _filters(values, common, "")
    # Without the leading "model." or "transformer." the filters also match names that omit it.
    root = Counter(name.partition(".")[0] for name in values).most_common(1)[0][0] + "."
    all_bare = [(text.removeprefix(root), value) for text, value in by_prefix]
    blocks_bare = [(text.removeprefix(root) if text.endswith(".") else text, value) for text, value in by_prefix]
    for filters in (all_bare, blocks_bare, by_prefix):
        if all(_first_match(filters, name, common) == value for name, value in values.items()):
            return _listed(filters, common)
    # A longer name is never part of a shorter one, so each name matches its own filter first.
    return _listed(sorted(values.items(), key=lambda item: -len(item[0])), common)


def _rule(reader: Reader, data: Any, path: Path, kind: Kind) -> tuple[str | None, tuple[Any, ...]]:
    given = reader.mapping(data, path, known=_CONDITION)
    if "value" not in given:
        reader.refuse(path, "an entry with a filter needs a `value`")
    text = None if given.get("filter") is None else reader.text(given["filter"], (*path, "filter"))
    return None if text == "*" else text, _values(reader, given["value"], (*path, "value"), kind)


def _values(reader: Reader, data: Any, path: Path, kind: Kind) -> tuple[Any, ...]:
    entries = data if isinstance(data, list) else [data]
    places = [(*path, n) for n in range(len(entries))] if isinstance(data, list) else [path]
    return tuple(_scalar(reader, entry, place, kind) for entry, place in zip(entries, places, strict=True))


def _scalar(reader: Reader, data: Any, path: Path, kind: Kind) -> Any:
    """Read a scalar like mergekit: numbers may be text, and true and 1 are the same."""
    if kind == "flag":
        return read_flag(reader, data, path)
    if isinstance(data, bool):
        return float(data)
    if isinstance(data, str):
        try:
            data = float(data)
        except ValueError:
            reader.refuse(path, f"expected a number; got {data!r}")
    return reader.number(data, path)


def _along(values: Sequence[Any], depth: float, kind: Kind) -> Any:
    if kind == "flag":
        return values[int(depth * (len(values) - 1))]
    place = depth * (len(values) - 1)
    below = int(place)
    above, part = min(below + 1, len(values) - 1), place - below
    return (1 - part) * values[below] + part * values[above]


def _filters(values: Mapping[str, Any], common: Any, prefix: str) -> list[tuple[str, Any]]:
    """Return filters for all but the most common value: a prefix, up to its dot, if all tensors under it agree."""
    if (len(values) > 1 and prefix and len(set(values.values())) == 1) or set(values) == {prefix}:
        value = next(iter(values.values()))
        return [] if value == common else [(prefix, value)]
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, dot, _ = name.removeprefix(prefix).partition(".")
        parts.setdefault(prefix + head + dot, {})[name] = value
    return [entry for start, members in parts.items() for entry in _filters(members, common, start)]


def _first_match(filters: list[tuple[str, Any]], name: str, otherwise: Any) -> Any:
    return next((value for text, value in filters if text in name), otherwise)


def _listed(filters: list[tuple[str, Any]], common: Any) -> list[dict[str, Any]]:
    return [{"filter": text, "value": value} for text, value in filters] + [{"value": common}]
