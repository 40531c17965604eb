"""Texts and prompts without labels: a text file in windows, or JSON lines of which only the prompt is read."""

from collections.abc import Sequence
from pathlib import Path

from evaluators._examples import PROMPT_FIELDS, Line, check_limit, read_json_lines, read_text
from evaluators._windows import check_window, pieces
from evaluators.base import EvaluatorError

JSON_LINES = (".jsonl", ".ndjson")
#: Fields that hold a text, in the order in which they are looked for.
TEXT_FIELDS = (*PROMPT_FIELDS, "text")


def is_json_lines(file: str) -> bool:
    """Return whether a file is read as JSON lines, by its name."""
    return Path(file).suffix in JSON_LINES


def read_windows(file: str, field: str | None, template: str | None, window: int, limit: int | None) -> list[str]:
    """Return the windows of a text file, or of the texts of JSON lines. Raises EvaluatorError if there are none.

    field, template: as in `prompt_of`. window: maximum size in characters, cut at white space. limit: maximum number
    of windows.
    """
    check_window(window)
    check_limit(limit)
    lines = read_json_lines(file) if is_json_lines(file) else []
    texts = [prompt_of(line, field, template) for line in lines] if lines else [read_text(file)]
    found = [piece for text in texts for piece in pieces(text, window)][:limit]
    if not found:
        raise EvaluatorError(f"{file} has no text.")
    return found


def read_prompts(file: str, field: str | None, template: str | None, limit: int | None) -> list[str]:
    """Return the prompts of JSON lines, or the lines of a text file that are not blank.

    Raises EvaluatorError if there are none.
    """
    check_limit(limit)
    if is_json_lines(file):
        return [prompt_of(line, field, template) for line in read_json_lines(file, limit)]
    found = [line for line in read_text(file).split("\n") if line.strip()][:limit]
    if not found:
        raise EvaluatorError(f"{file} has no prompts; expected one in each line.")
    return found


def prompt_of(line: Line, field: str | None, template: str | None) -> str:
    """Return a template filled with the line's fields, else the field; by default prompt, question or text."""
    present = [name for name in TEXT_FIELDS if name in line.fields]
    if template is None and field is None and not present:
        line.field(TEXT_FIELDS[0])
    return line.prompt(field or (present or TEXT_FIELDS)[0], template)


def check_choice(name: str, value: str, expected: Sequence[str]) -> None:
    """Raise EvaluatorError unless an option has one of the expected values."""
    if value not in expected:
        raise EvaluatorError(f"{name} is {value!r}; expected one of {', '.join(expected)}.")
