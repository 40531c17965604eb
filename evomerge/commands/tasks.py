"""From what a person calls a task to an evaluator: files are looked into, the rest are lm-eval tasks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evaluators._examples import PROMPT_FIELDS, Line, as_texts, read_json_lines
from evaluators._texts import TextError, read_text
from evaluators.base import EvaluatorError
from evomerge.config_fields import PATH_OPTIONS

#: Evaluator -> the field that asks for it; the first that a file has decides.
_NEEDED = {"multiple_choice": "choices", "exact_match": "answer", "perplexity": "text"}
#: Evaluator -> the fields that it reads.
_READ = {
    "multiple_choice": (*PROMPT_FIELDS, "choices", "answer"),
    "exact_match": (*PROMPT_FIELDS, "answer"),
    "perplexity": ("text",),
}
#: Fields that data sets use for what a model reads or writes: one that would be ignored leaves a doubt.
_MEANINGFUL = re.compile(
    "prompt|question|query|instruction|inputs?|context|passage|article|document|story|premise|hypothesis|sentence|text|"
    "system|messages|conversations|choices|options|endings|answers?|answer_?key|gold|labels?|targets?|outputs?|"
    "references?|response|solution|summary|completion|chosen|rejected",
    re.IGNORECASE,
)
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
    """(name, entry of `tasks` in a search file) for a file, a `module:Class`, the name of an lm-eval task, or an entry.

    An entry is written as in a search file, `{evaluator: multiple_choice, file: qa.jsonl, prompt: text}`.
    Raises DraftError for a file that is missing, of no known kind, or whose fields can be read in more than one way.
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
        raise DraftError(f"Task {text!r} is no file. Expected a JSONL, YAML or text file, or an lm-eval task.")
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
    return {"evaluator": "perplexity", "file": file}


def _of_lines(path: Path, file: str) -> dict[str, Any]:
    """The evaluator that the fields of every line ask for. Raises DraftError where they leave a doubt."""
    lines = read_json_lines(path)
    fields = dict.fromkeys(name for line in lines for name in line.fields)
    partial = [name for name in fields if any(name not in line.fields for line in lines)]
    evaluator = next((kind for kind, needed in _NEEDED.items() if needed in fields), None)
    if evaluator is None:
        raise DraftError(
            f"{path} has the fields {', '.join(fields)}. Expected prompt, choices and answer for multiple choice, "
            f"prompt and answer for exact match, or text for perplexity.\n{_remedy(path)}"
        )
    read = _READ[evaluator]
    doubts = [name for name in fields if _MEANINGFUL.fullmatch(name) and name not in read]
    prompts = [name for name in PROMPT_FIELDS if name in fields]
    if len(prompts) > 1:
        doubts += prompts
    if evaluator != "perplexity" and not prompts:
        doubts += ["no prompt or question"]
    doubts += [f"{name} (not in every line)" for name in partial if name in read]
    if doubts:
        raise DraftError(
            f"{path} looks like {evaluator}, but {', '.join(doubts)} among its fields ({', '.join(fields)}) leave open "
            f"what the model should read.\n{_remedy(path, evaluator)}"
        )
    entry = {"evaluator": evaluator, "file": file}
    return {**entry, "separator": ""} if evaluator == "multiple_choice" and _spaced(lines) else entry


def _spaced(lines: Sequence[Line]) -> bool:
    """Whether every choice brings the white space that separates it from its prompt."""
    texts = [text for line in lines for text in as_texts(line.field("choices"), f"{line.where}, choices")]
    return all(text[:1].isspace() for text in texts)


def _remedy(path: Path, evaluator: str = "multiple_choice") -> str:
    more = ", answer: FIELD" if evaluator != "perplexity" else ""
    template = "field: FIELD" if evaluator == "perplexity" else "template: 'Q: {question}\\nA:'"
    entry = f"{{evaluator: {evaluator}, file: {path}, {template}{more}}}"
    return f'Say what to read: --task "{entry}"'


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except TextError as error:
        raise DraftError(str(error)) from error
