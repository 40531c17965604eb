"""Suggestions for mistyped names."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the most similar known name; None if none is similar."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ` Did you mean 'ties'?` for the end of a message; empty if no known name is similar."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"
