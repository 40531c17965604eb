"""Names and texts from files, made fit to be shown: none controls a terminal, forges a line or turns text around."""

import re

#: Control characters, what turns the direction of text, invisible separators, halves of characters.
_UNFIT = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
    "\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
)
_LINES = re.compile(f"[{_UNFIT}]")
_NAME = re.compile(f"[{_UNFIT}\t\n]")


def printable(text: str) -> str:
    """The text with escapes such as `\\x1b` for what a terminal would obey; line ends and tabs stay."""
    return _LINES.sub(_escape, text)


def one_line(text: str) -> str:
    """The same on one line: line ends and tabs are escaped too."""
    return _NAME.sub(_escape, text)


def is_name(text: str) -> bool:
    """Whether a text can be shown as it is, on one line."""
    return _NAME.search(text) is None


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape", "surrogatepass").decode()
