"""Typed access to plain data read from a file; every refusal names the line."""

import math
from collections.abc import Iterable
from typing import Any, NoReturn

from evaluators._nearest import nearest
from evaluators._strict_yaml import Document, Path


def unknown_key(key: str, known: Iterable[str], what: str = "key") -> str:
    """What to say of a key that a file may not have, with the nearest one that it may."""
    names = tuple(known)
    near = nearest(key, names)
    return f"unknown {what} {key!r}; " + (f"did you mean {near!r}?" if near else f"there are {', '.join(names)}")


def sentence(text: str) -> str:
    """The text with a full stop, where it does not end in a mark of its own."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


class Reader:
    """Hands out the values of a document as what they should be, or raises `error` with place and value."""

    def __init__(self, document: Document, error: type[ValueError]) -> None:
        self.document = document
        self.error = error

    def number(self, data: Any, path: Path) -> float:
        """A finite number, as a float."""
        if type(data) not in (int, float) or not math.isfinite(data):
            self.refuse(path, f"expected a number; got {data!r}")
        return float(data)

    def choice(self, data: Any, path: Path, allowed: tuple[Any, ...]) -> Any:
        """One of `allowed`."""
        if data not in allowed:
            names = ", ".join(repr(name) for name in allowed if name is not None)
            self.refuse(path, f"expected one of {names}; got {data!r}")
        return data

    def text(self, data: Any, path: Path) -> str:
        """Text that is not empty."""
        if not isinstance(data, str) or not data:
            self.refuse(path, f"expected text; got {data!r}")
        return data

    def mapping(
        self, data: Any, path: Path, known: tuple[str, ...] | None = None, complete: bool = False
    ) -> dict[str, Any]:
        """A mapping; with `known` only of these keys, with `complete` of all of them."""
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
