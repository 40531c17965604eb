"""Examples from JSON lines: one object per line, fields by name, errors with file and line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from evaluators import _texts
from evaluators.base import EvaluatorError

PROMPT_FIELDS = ("prompt", "question")


@dataclass(frozen=True)
class Line:
    """One example: where it stands, for messages, and its fields."""

    where: str
    fields: Mapping[str, Any]

    def field(self, name: str) -> Any:
        """The field `name`. Raises EvaluatorError with the names there are, and where it is null."""
        if name not in self.fields:
            raise EvaluatorError(
                f"{self.where} has no field {name!r}; it has {', '.join(map(repr, self.fields)) or 'none'}. "
                "Say in the task's options which field to read."
            )
        if self.fields[name] is None:
            raise EvaluatorError(f"{self.where}: {name} is null; give it a value, or leave the line out.")
        return self.fields[name]

    def prompt(self, field: str | None, template: str | None) -> str:
        """The prompt: `template` filled with the fields, else the field (default: "prompt" or "question").

        A template is a format string, `"Q: {question}\\nA:"`.
        """
        if template is None:
            present = [name for name in PROMPT_FIELDS if name in self.fields]
            return str(self.field(field or (present or PROMPT_FIELDS)[0]))
        try:
            used = [name.split(".")[0].split("[")[0] for _, name, _, _ in Formatter().parse(template) if name]
            text = template.format_map(self.fields)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise EvaluatorError(
                f"{self.where} does not fill the template {template!r}: {error!r}. "
                f"It has {', '.join(map(repr, self.fields))}; write a literal brace twice."
            ) from error
        for name in used:
            self.field(name)  # null would be written as "None"
        return text


def read_json_lines(file: str | Path, limit: int | None = None) -> list[Line]:
    """The first `limit` examples of a JSON lines file (all for None); blank lines do not count.

    Raises EvaluatorError for a file that cannot be read, a line that is no object, and no lines at all.
    """
    check_limit(limit)
    lines = []
    for number, text in enumerate(_texts.split_lines(read_text(file)), start=1):
        if text.strip():
            lines.append(_parse(text, f"{file}, line {number}"))
    if not lines:
        raise EvaluatorError(f"{file} has no examples; expected one JSON object per line.")
    return lines[:limit]


def read_text(file: str | Path) -> str:
    """The text of a file, UTF-8. Raises EvaluatorError when it cannot be read."""
    try:
        return _texts.read_text(file)
    except FileNotFoundError as error:
        raise EvaluatorError(f"{file} does not exist: expected a text file, or JSON lines (.jsonl).") from error
    except _texts.TextError as error:
        raise EvaluatorError(str(error)) from error


def check_limit(limit: int | None) -> None:
    """Raises EvaluatorError unless `limit` is None or a positive whole number."""
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise EvaluatorError(f"limit is {limit!r}; expected a whole number of examples, at least 1.")


def as_texts(value: Any, where: str) -> list[str]:
    """A text, or a list of texts, as a non-empty list."""
    texts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not texts or any(not isinstance(text, str | int | float) or isinstance(text, bool) for text in texts):
        raise EvaluatorError(f"{where} is {value!r}; expected a text or a list of texts.")
    return [str(text) for text in texts]


def _parse(text: str, where: str) -> Line:
    try:
        fields = _texts.parse_json(text, where)
    except _texts.TextError as error:
        raise EvaluatorError(str(error)) from error
    if not isinstance(fields, dict):
        raise EvaluatorError(f"{where} is {text[:40]!r}; expected a JSON object.")
    return Line(where, fields)
