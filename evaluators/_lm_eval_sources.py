"""Finding lm-eval tasks, and refusing the ones that would run code nobody agreed to."""

import difflib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from evaluators.base import EvaluatorError

#: Tasks that come with lm-eval are code that the user installed.
STOCK = Path(lm_eval.__file__).parent.resolve()

#: A group's member with one of these is a task of its own, not the name of another.
INLINE = ("dataset_path", "custom_dataset", "output_type", "include")


def find(name: str, include_path: str | None, metadata: Mapping[str, Any]) -> tuple[TaskManager, tuple[Path, ...]]:
    """A manager that knows the task, group, tag or YAML file `name`, and the local files it is made of.

    The stock tasks are scanned (seconds) only if a name is not found in `include_path`.
    Raises EvaluatorError for a name that nobody knows.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise EvaluatorError(f"include_path is {include_path!r}, which is no folder.")
    file = _existing(name) if Path(name).suffix in (".yaml", ".yml") else None
    names = [name] if file is None else list(_members(load_yaml(file, resolve_func=False)))
    known: list[str] = []
    for manager in _managers(include_path, metadata):
        known = list(manager.task_index)
        files = [_files(manager.task_index, wanted) for wanted in names]
        if None not in files:
            own = [] if file is None else [file]
            return manager, _locals([*own, *(path for group in files for path in group or ())])
    where = f" in {include_path} or" if include_path is not None else ""
    near = difflib.get_close_matches(name, known, n=1)
    raise EvaluatorError(
        f"lm-eval knows no task, group or tag {name!r} (or a member of it){where} among its own; "
        "`lm-eval ls tasks` lists those, and `include_path` adds a folder of task YAML files."
        + (f" Did you mean {near[0]!r}?" if near else "")
    )


def refuse_code(files: tuple[Path, ...]) -> None:
    """Raises EvaluatorError if a local task file names Python code to run, directly or by `include`."""
    for file in files:
        for reason in _code_in(file):
            raise EvaluatorError(
                f"The task file {file} {reason}, which runs code. Read it, and set `allow_code: true` if you trust it."
            )


def _managers(include_path: str | None, metadata: Mapping[str, Any]) -> Iterator[TaskManager]:
    yield TaskManager(include_path=include_path, include_defaults=False, metadata=dict(metadata))
    yield _everything(include_path, json.dumps(metadata))


@functools.cache
def _everything(include_path: str | None, metadata: str) -> TaskManager:
    return TaskManager(include_path=include_path, metadata=json.loads(metadata))


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise EvaluatorError(f"The task file {name!r} does not exist.")
    return Path(name)


def _files(index: Mapping[str, Any], name: str) -> list[Path] | None:
    """YAML files behind a name, members of groups and tags included; None when one is missing."""
    entry = index.get(name)
    if entry is None:
        return None
    found = [entry.yaml_path] if entry.yaml_path is not None else []
    for member in sorted(entry.tags) if entry.yaml_path is None else _members(entry.cfg or {}):
        files = _files(index, member)
        if files is None:
            return None
        found += files
    return found


def _members(config: Mapping[str, Any]) -> Iterator[str]:
    """Names that a group refers to; inline tasks and groups hold their configuration themselves."""
    listed = config.get("task")
    for member in listed if isinstance(listed, list) else []:
        if isinstance(member, str):
            yield member
        elif isinstance(member.get("task"), list):
            yield from _members(member)
        elif not any(key in member for key in INLINE):
            yield member.get("task") or member["group"]


def _locals(files: list[Path]) -> tuple[Path, ...]:
    """The files that do not come with lm-eval, with what they include."""
    found: dict[Path, None] = {}
    waiting = [file.resolve() for file in files]
    while waiting:
        file = waiting.pop()
        if file in found or file.is_relative_to(STOCK):
            continue
        found[file] = None
        waiting += [(file.parent / other).resolve() for other in _includes(file)]
    return tuple(found)


def _includes(file: Path) -> list[str]:
    """The `include` entries of a task file, read without running or building anything."""
    node = yaml.compose(_text(file), Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    values = [value for key, value in pairs if key.value == "include"]
    return [
        item.value for value in values for item in (value.value if isinstance(value, yaml.SequenceNode) else [value])
    ]


def _code_in(file: Path) -> Iterator[str]:
    """Why a task file would run code: a tag such as !function, or a switch that is on."""
    before = ""
    for event in yaml.parse(_text(file), Loader=yaml.SafeLoader):
        tag = getattr(event, "tag", None)
        if tag is not None and not tag.startswith("tag:yaml.org,2002:"):
            yield f"has the tag {tag}"
        value = event.value if isinstance(event, yaml.ScalarEvent) else ""
        if before in ("unsafe_code", "hf_evaluate") and value.lower() not in ("false", "no", "off"):
            yield f"sets {before}"
        before = value


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluatorError(f"The task file {file} cannot be read: {error}.") from error
