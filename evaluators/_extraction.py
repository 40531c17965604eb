"""The part of a generated text that is compared."""

import re
from dataclasses import dataclass

from evaluators.base import EvaluatorError


@dataclass(frozen=True)
class Extraction:
    """Comparison of generated texts.

    pattern: its last match is compared (its first group, if it has one); None for the whole text. strip, ignore_case:
    whether white space around it, and case, are ignored.
    """

    pattern: re.Pattern[str] | None = None
    strip: bool = True
    ignore_case: bool = False

    @classmethod
    def of(cls, extract: str | None, *, strip: bool = True, ignore_case: bool = False) -> "Extraction":
        """Compile an `extract` option. Raises EvaluatorError if it is not a regular expression."""
        try:
            return cls(None if extract is None else re.compile(extract), strip, ignore_case)
        except re.error as error:
            raise EvaluatorError(f"extract is {extract!r}, which is not a regular expression: {error}.") from error

    def answer(self, text: str) -> str | None:
        """Return the part of a text that is compared; None without a match."""
        if self.pattern is None:
            return self.normal(text)
        matches = list(self.pattern.finditer(text))
        if not matches:
            return None
        return self.normal(matches[-1].group(1 if self.pattern.groups else 0) or "")

    def normal(self, text: str) -> str:
        """Remove from a text what is ignored."""
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text
