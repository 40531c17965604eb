"""Typed access to plain data read from a file; every error names the line."""

import math
from collections.abc import Iterable
from typing import Any, NoReturn

from evaluators._nearest import nearest
from evaluators._strict_yaml import Document, Path


def unknown_key(key: str, known: Iterable[str], what: str = "key") -> str:
    """Describe an unknown key, with the nearest known one."""
    names = tuple(known)
    near = nearest(key, names)
    return f"unknown {what} {key!r}; " + (f"did you mean {near!r}?" if near else f"there are {', '.join(names)}")


def sentence(text: str) -> str:
    """End a text with a period, unless it ends in a punctuation mark of its own."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


class Reader:
    """Returns the values of a document as the expected types, or raises `error` with location and value."""

    def __init__(self, document: Document, error: type[ValueError]) -> None:
        self.document = document
        self.error = error

    def number(self, data: Any, path: Path) -> float:
        """Return a finite number, as a float."""
        if type(data) not in (int, float) or not math.isfinite(data):
            self.refuse(path, f"expected a number; got {data!r}")
        return float(data)

    def integer(self, data: Any, path: Path, least: int) -> int:
        """Return a whole number of at least `least`."""
        if type(data) is not int or data < least:
            self.refuse(path, f"expected a whole number, at least {least}; got {data!r}")
        return data

    def choice(self, data: Any, path: Path, allowed: tuple[Any, ...]) -> Any:
        """Return one of `allowed`."""
        if data not in allowed:
            names = ", ".join(repr(name) for name in allowed if name is not None)
            self.refuse(path, f"expected one of {names}; got {data!r}")
        return data

    def text(self, data: Any, path: Path) -> str:
        """Return non-empty text."""
        if not isinstance(data, str) or not data:
            self.refuse(path, f"expected text; got {data!r}")
        return data

    def mapping(
        self, data: Any, path: Path, known: tuple[str, ...] | None = None, complete: bool = False
    ) -> dict[str, Any]:
        """Return a mapping; with `known` only of these keys, with `complete` of all of them."""
        if not isinstance(data, dict):
            self.refuse(path, f"expected a mapping; got {data!r}")
        for key in data:
            if known is not None and key not in known:
                self.refuse((*path, key), unknown_key(key, known))
        if complete and known is not None and len(data) < len(known):
            self.refuse(path, f"{', '.join(name for name in known if name not in data)} missing")
        return data

    def refuse(self, path: Path, why: str) -> NoReturn:
        """Raise the error for the value at `path`."""
        place = ".".join(map(str, path))
        raise self.error(sentence(f"{self.document.where(*path)}: {place + ': ' if place else ''}{why}"))
