"""Safe display of names and texts from files: they cannot control a terminal, forge a line or reverse text."""

import re

#: Control characters, characters that change the direction of text, invisible separators, surrogate halves.
_UNFIT = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
    "\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
)
_LINES = re.compile(f"[{_UNFIT}]")
_NAME = re.compile(f"[{_UNFIT}\t\n]")


def printable(text: str) -> str:
    """Escape what a terminal would interpret, e.g. as `\\x1b`; line ends and tabs stay."""
    return _LINES.sub(_escape, text)


def one_line(text: str) -> str:
    """Escape a text for one line: line ends and tabs too."""
    return _NAME.sub(_escape, text)


def is_name(text: str) -> bool:
    """Return whether a text can be shown unchanged on one line."""
    return _NAME.search(text) is None


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape", "surrogatepass").decode()
