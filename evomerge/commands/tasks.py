"""Resolution of `--task` to an evaluator: from the content of files, else as an lm-eval task."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evaluators._examples import PROMPT_FIELDS, Line, as_texts, read_json_lines
from evaluators._texts import TextError, read_text
from evaluators.base import EvaluatorError
from evomerge.config.fields import PATH_OPTIONS
from evomerge.errors import EvomergeError

#: Evaluator -> the field that asks for it; the first that a file has decides.
_NEEDED = {"multiple_choice": "choices", "exact_match": "answer", "perplexity": "text"}
#: Evaluator -> the fields that it reads.
_READ = {
    "multiple_choice": (*PROMPT_FIELDS, "choices", "answer"),
    "exact_match": (*PROMPT_FIELDS, "answer"),
    "perplexity": ("text",),
}
#: Fields that data sets use for what a model reads or writes: one that would be ignored makes the file ambiguous.
_MEANINGFUL = re.compile(
    "prompt|question|query|instruction|inputs?|context|passage|article|document|story|premise|hypothesis|sentence|text|"
    "system|messages|conversations|choices|options|endings|answers?|answer_?key|gold|labels?|targets?|outputs?|"
    "references?|response|solution|summary|completion|chosen|rejected",
    re.IGNORECASE,
)
_TABLES = (".csv", ".tsv", ".json", ".parquet", ".arrow", ".xlsx")
_ANSWERS = re.compile("answers?|answer_?key|gold|labels?|targets?|outputs?|response|solution|completion", re.IGNORECASE)
_LETTERS = "ABCDEFGH"
_JSON_LINES = (".jsonl", ".ndjson")
_YAML = (".yaml", ".yml")
_TASK_NAME = re.compile(r"^task:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


class DraftError(EvomergeError):
    """A search file that cannot be drafted from the given models and tasks."""


def guess_tasks(tasks: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and entry of every task. Raises DraftError for an unknown one, and for two of the same name."""
    entries = [guess_task(task) for task in tasks]
    names = [name for name, _ in entries]
    if len(set(names)) != len(names):
        raise DraftError(f"Two tasks have the same name; they are {', '.join(names)}. Rename a file.")
    return entries


def guess_task(text: str) -> tuple[str, dict[str, Any]]:
    """Return a task's name and its entry of `tasks` in a search file.

    text: a file, a `module:Class`, the name of an lm-eval task, or an entry as in a search file, such as
        `{evaluator: multiple_choice, file: qa.jsonl, prompt: text}`.

    Raises DraftError for a file that is missing, of an unknown kind, or whose fields can be read in more than one way.
    """
    if text.lstrip().startswith("{"):
        return _of_entry(text)
    path = Path(text)
    if path.is_file():
        try:
            return path.stem, _of_file(path)
        except EvaluatorError as error:
            raise DraftError(str(error)) from error
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        return text.rpartition(":")[2], {"evaluator": text}
    if path.suffix or "/" in text or path.exists():
        raise DraftError(f"There is no file {text!r}. Expected a JSONL, YAML or text file, or an lm-eval task.")
    return text, {"evaluator": "lm_eval_task", "task": text}


def _of_entry(text: str) -> tuple[str, dict[str, Any]]:
    entry = strict_yaml.load(text, source="--task").data
    if not isinstance(entry, dict) or not isinstance(entry.get("evaluator"), str):
        raise DraftError(f"Task {text!r} names no evaluator. Expected {{evaluator: NAME, file: FILE, ...}}.")
    files = {k: str(Path(v).absolute()) for k, v in entry.items() if k in PATH_OPTIONS and isinstance(v, str)}
    name = entry.get("task") or (Path(files["file"]).stem if "file" in files else entry["evaluator"].rpartition(":")[2])
    return str(name), {**entry, **files}


def _of_file(path: Path) -> dict[str, Any]:
    file = str(path.absolute())
    if path.suffix in _YAML:
        found = _TASK_NAME.search(_text(path))
        if found is None:
            raise DraftError(f"{path} has no `task: NAME`: it is not the file of an lm-eval task.")
        return {
            "evaluator": "lm_eval_task",
            "task": found.group(1),
            "include_path": str(path.absolute().parent),
        }
    if path.suffix in _JSON_LINES:
        return _of_lines(path, file)
    if path.suffix in _TABLES:
        raise DraftError(f"{path} is a {path.suffix} file. Expected a JSONL, text or task YAML file.")
    return {"evaluator": "perplexity", "file": file}


def _of_lines(path: Path, file: str) -> dict[str, Any]:
    """Return an entry with the evaluator that the lines' fields suggest. Raises DraftError if they are ambiguous."""
    lines = read_json_lines(path)
    fields = list(dict.fromkeys(name for line in lines for name in line.fields))
    evaluator = next((kind for kind, needed in _NEEDED.items() if needed in fields), None)
    if evaluator is None:
        raise DraftError(
            f"{path} has the fields {', '.join(fields)}. Expected prompt, choices and answer for multiple choice, "
            f"prompt and answer for exact match, or text for perplexity.\n{_remedy(path, None, fields)}"
        )
    read = _READ[evaluator]
    prompts = [name for name in PROMPT_FIELDS if name in fields]
    for name in (*prompts[:1], *(name for name in fields if name in read and name not in PROMPT_FIELDS)):
        without = [line.where for line in lines if name not in line.fields]
        if without and len(without) < len(lines) / 2:
            raise DraftError(f"{without[0]} has no {name!r}, unlike most lines: add it, or leave the line out.")
    doubts = [f"the field {name!r} would be ignored" for name in fields if _meant(name, fields) and name not in read]
    if len(prompts) > 1:
        doubts.append("there are both 'prompt' and 'question'")
    if evaluator != "perplexity" and not prompts:
        doubts.append("there is no 'prompt' or 'question'")
    doubts += [
        f"{name!r} is not in every line" for name in read if 0 < sum(name in x.fields for x in lines) < len(lines)
    ]
    if doubts:
        raise DraftError(
            f"{path} looks like {evaluator}, but it is unclear what the model should read: {'; '.join(doubts)}.\n"
            + _remedy(path, evaluator, fields)
        )
    entry = {"evaluator": evaluator, "file": file}
    return {**entry, "separator": ""} if evaluator == "multiple_choice" and _spaced(lines) else entry


def _meant(name: str, fields: Sequence[str]) -> bool:
    """Return whether data sets use a field of this name for a model's input or output, such as lettered choices."""
    return bool(_MEANINGFUL.fullmatch(name)) or (name in _LETTERS and set(_LETTERS[:2]) <= set(fields))


def _spaced(lines: Sequence[Line]) -> bool:
    """Return whether every choice begins with the white space that separates it from its prompt."""
    texts = [text for line in lines for text in as_texts(line.field("choices"), f"{line.where}, choices")]
    return all(text[:1].isspace() for text in texts)


def _remedy(path: Path, evaluator: str | None, fields: Sequence[str]) -> str:
    """Suggest a `--task` with the file's fields; in the template's double quotes, YAML reads `\\n` as a newline."""
    kind = evaluator or "exact_match"
    answer = next((name for name in fields if _ANSWERS.fullmatch(name)), "FIELD")
    if kind == "perplexity":
        return f"Say what to read: --task '{{evaluator: perplexity, file: {path}, field: {fields[0]}}}'"
    read = [name for name in fields if name not in (answer, "choices") and _meant(name, fields)] or list(fields[:1])
    template = "\\n".join(f"{{{name}}}" for name in read)
    entry = f'{{evaluator: {kind}, file: {path}, template: "{template}", answer: {answer}}}'
    return f"Say what to read: --task '{entry}'"


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except TextError as error:
        raise DraftError(str(error)) from error
