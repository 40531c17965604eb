"""Examples from JSON lines: one object per line, fields by name; errors name file and line."""

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
    """One example: its fields, and its location for error messages."""

    where: str
    fields: Mapping[str, Any]

    def field(self, name: str) -> Any:
        """Return the field `name`. Raises EvaluatorError if it is missing or null, listing the available names."""
        if name not in self.fields:
            raise EvaluatorError(
                f"{self.where} has no field {name!r}; it has {', '.join(map(repr, self.fields)) or 'none'}. "
                "Set the option of this task that names the field to read."
            )
        if self.fields[name] is None:
            raise EvaluatorError(f"{self.where}: {name} is null; set a value, or remove the line.")
        return self.fields[name]

    def prompt(self, field: str | None, template: str | None) -> str:
        """Return the prompt: `template` filled with the fields, else the field (default: "prompt" or "question").

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
                f"{self.where} does not fit the template {template!r}: {error!r}. "
                f"The fields are {', '.join(map(repr, self.fields))}; double a literal brace."
            ) from error
        for name in used:
            self.field(name)  # null would be written as "None"
        return text


def read_json_lines(file: str | Path, limit: int | None = None) -> list[Line]:
    """Read the first `limit` examples of a JSON lines file (None: all), ignoring blank lines.

    Raises EvaluatorError for an unreadable file, a line that is not an object, and a file without examples.
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
    """Read a UTF-8 text file. Raises EvaluatorError if it cannot be read."""
    try:
        return _texts.read_text(file)
    except FileNotFoundError as error:
        raise EvaluatorError(f"{file} does not exist: expected a text file, or JSON lines (.jsonl).") from error
    except _texts.TextError as error:
        raise EvaluatorError(str(error)) from error


def check_limit(limit: int | None) -> None:
    """Raise EvaluatorError unless `limit` is None or a positive integer."""
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise EvaluatorError(f"limit is {limit!r}; expected a number of examples, at least 1.")


def as_texts(value: Any, where: str) -> list[str]:
    """Return a text, or a list of texts, as a non-empty list."""
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
