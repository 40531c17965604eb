"""What to suggest where a name was mistyped."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is spelled most alike; None where none is near."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """` Did you mean 'ties'?`, to end a message with; empty where no known name is near."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"
