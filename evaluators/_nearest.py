"""Suggestions for mistyped names."""

import difflib
from collections.abc import Iterable

#: Length from which a beginning identifies a name.
_SHORTEST = 3


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that begins like this one, or else the most similar one; None if none is similar."""
    text, names = str(name), list(known)
    longer = [each for each in names if each.startswith(text) and len(text) >= _SHORTEST]
    return next(iter([*longer, *difflib.get_close_matches(text, names, n=1)]), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ` Did you mean 'ties'?` for the end of a message; empty if no known name is similar."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"
