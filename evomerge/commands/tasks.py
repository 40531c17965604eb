"""From what a person calls a task to an evaluator: files are looked into, the rest are lm-eval tasks."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_JSON_LINES = (".jsonl", ".ndjson")
_YAML = (".yaml", ".yml")
_TASK_NAME = re.compile(r"^task:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


class DraftError(ValueError):
    """A search file that cannot be drafted from what was given."""


def guess_tasks(tasks: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Name and entry of every task. Raises DraftError for one that is not understood, and for two of one name."""
    entries = [guess_task(task) for task in tasks]
    names = [name for name, _ in entries]
    if len(set(names)) != len(names):
        raise DraftError(f"Two tasks have the same name; they are {', '.join(names)}. Rename a file.")
    return entries


def guess_task(text: str) -> tuple[str, dict[str, Any]]:
    """(name, entry of `tasks` in a search file) for a file, a `module:Class`, or the name of an lm-eval task.

    Raises DraftError for a file that is not there or is of no known kind.
    """
    path = Path(text)
    if path.is_file():
        return path.stem, _of_file(path)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        return text.rpartition(":")[2], {"evaluator": text}
    if path.suffix or "/" in text or path.exists():
        raise DraftError(f"Task {text!r} is no file. Expected a JSONL, YAML or text file, or an lm-eval task.")
    return text, {"evaluator": "lm_eval_task", "task": text}


def _of_file(path: Path) -> dict[str, Any]:
    file = str(path.absolute())
    if path.suffix in _YAML:
        found = _TASK_NAME.search(path.read_text(encoding="utf-8"))
        if found is None:
            raise DraftError(f"{path} has no `task: NAME`: it is not the file of an lm-eval task.")
        return {
            "evaluator": "lm_eval_task",
            "task": found.group(1),
            "include_path": str(path.absolute().parent),
        }
    if path.suffix not in _JSON_LINES:
        return {"evaluator": "perplexity", "file": file}
    fields = _fields(path)
    for evaluator, needed in (
        ("multiple_choice", "choices"),
        ("exact_match", "answer"),
        ("perplexity", "text"),
    ):
        if needed in fields:
            return {"evaluator": evaluator, "file": file}
    raise DraftError(
        f"{path} has the fields {', '.join(fields)}. Expected prompt, choices and answer for multiple choice, "
        "prompt and answer for exact match, or text for perplexity."
    )


def _fields(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        row = json.loads(first)
    except json.JSONDecodeError as error:
        raise DraftError(f"{path}: the first line is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise DraftError(f"{path}: the first line is no JSON object: {first[:80]!r}.")
    return list(row)
