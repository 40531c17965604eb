"""Discovery of lm-eval tasks: local files read by this package, stock ones by lm-eval; no code runs unasked."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import _import_func_in_yml

from evaluators._lm_eval_files import STOCK, Function, Reader, TaskFile, shown
from evaluators._nearest import did_you_mean
from evaluators.base import EvaluatorError

#: A group member with one of these keys is a task of its own, not the name of another.
INLINE = ("dataset_path", "custom_dataset", "output_type", "include")

#: Maximum number of members: larger groups take hours to build; lm-eval's largest has a few thousand.
MAX_MEMBERS = 20_000

_DATA = ("dataset_kwargs", "dataset_path")

#: Keys that run Python code or other files' templates, and the value with which they do not.
_RUNS: Mapping[str, Any] = {"class": None, "unsafe_code": False, "use_prompt": None}


@dataclass(frozen=True)
class Found:
    """A task, group, tag or file, ready to be built. key: its name in the manager's index.

    files: the local files that it consists of, by task or group. asked: the file that was requested itself.
    """

    key: str
    manager: TaskManager
    files: Mapping[str, TaskFile]
    asked: TaskFile | None

    def where(self, task: str, *path: str | int) -> str | None:
        """Return `file:line` of a value in the configuration of `task`; None for lm-eval's own tasks."""
        for file in self.files.values():
            place = file.member(task.rpartition("::")[2], *path)
            if place is not None:
                return place
        candidates = [file for file in (self.files.get(task), self.asked) if file is not None]
        for file in candidates:
            if path and path[0] in file.documents:
                return file.where(*path)
        return candidates[0].where() if candidates else None

    def folders(self, task: str) -> list[Path]:
        """Return the folders of the local files that determine the data of `task`."""
        files = [file for file in (self.files.get(task), *self.files.values()) if file is not None]
        sources = [Path(file.documents[key].source) for file in files for key in _DATA if key in file.documents]
        return list(dict.fromkeys(path.parent for path in [*sources, *(file.path for file in files)]))


class _Missing(Exception):
    """A group member that is in no index."""


def find(name: str, include_path: str | None, metadata: Mapping[str, Any], allow_code: bool) -> Found:
    """Find the task, group, tag or YAML file `name`, with a manager that knows it and its local files.

    Stock tasks are scanned (seconds) only if a name is not found in `include_path`.
    Raises EvaluatorError for an unknown name, a file without a task, and code that is not allowed.
    """
    reader = Reader()
    files, own, broken, again = _scan(reader, include_path)
    asked = None
    if Path(name).suffix in (".yaml", ".yml"):
        asked = reader.read(Path(name))
        own[name] = _entry(asked)
        files[name] = asked
    for stock in (dict, _stock_index):
        index = {**stock(), **own}
        try:
            reached = dict(_reach(index, name))
        except _Missing:
            continue
        local = {key: files[key] for key in reached if key in files}
        for key in (key for key in local if key in again):
            raise EvaluatorError(
                f"{shown(key)!r} is defined in {shown(local[key].path)} and again in {shown(again[key])}: rename one, "
                "or move it to another folder."
            )
        manager = TaskManager(include_defaults=False, metadata=dict(metadata))
        manager.task_index.update(index)
        for key, file in local.items():
            manager.task_index[key] = _importable(own[key], file, allow_code)
        return Found(name, manager, {own[key].name: file for key, file in local.items()}, local.get(name))
    where = f" in {include_path} or" if include_path is not None else ""
    raise EvaluatorError(
        f"lm-eval knows no task, group or tag {name!r} (or a member of it){where} among its own; "
        "`lm-eval ls tasks` lists those, and `include_path` adds a folder of task YAML files."
        + did_you_mean(name, index)
        + "".join(f" Not read: {error}" for error in broken[:3])
    )


def _scan(
    reader: Reader, include_path: str | None
) -> tuple[dict[str, TaskFile], dict[str, Entry], list[str], dict[str, Path]]:
    """Scan a folder of task files: files by name, index entries for lm-eval, errors, and repeated names."""
    if include_path is not None and not Path(include_path).is_dir():
        raise EvaluatorError(f"include_path is {include_path!r}, which is not a folder: give one with task YAML files.")
    files: dict[str, TaskFile] = {}
    index: dict[str, Entry] = {}
    broken = []
    again: dict[str, Path] = {}
    for path in sorted(Path(include_path).glob("**/*.yaml")) if include_path is not None else ():
        if {"__pycache__", ".ipynb_checkpoints"} & set(path.parts):
            continue
        try:
            file = reader.read(path)
            entry = _entry(file)
        except EvaluatorError as error:
            broken.append(str(error))
            continue
        if entry.name not in files:
            files[entry.name] = file
            index[entry.name] = entry
            for tag in entry.tags:
                index.setdefault(tag, Entry(tag, Kind.TAG, None)).tags.add(entry.name)
        elif not _same_task(files[entry.name], file):
            again.setdefault(entry.name, path)
    return files, index, broken, again


def _same_task(first: TaskFile, second: TaskFile) -> bool:
    """Return whether one of two files of the same name includes and merely extends the other."""
    return first.path.resolve() in second.included or second.path.resolve() in first.included


def _entry(file: TaskFile) -> Entry:
    """Return a file's entry for lm-eval's index. Raises EvaluatorError for a file that defines no name."""
    config = file.config
    kind = Kind.PY_TASK if "class" in config else Kind.GROUP if "group" in config else Kind.TASK
    key = "group" if kind is Kind.GROUP else "task"
    if not isinstance(config.get(key), str):
        raise EvaluatorError(
            f"{file.where('task')}: a task file needs the name of a task (`task: NAME`), or `group: NAME` "
            f"with a list of its members under `task`; it has {shown(', '.join(config)) or 'nothing'}."
        )
    if file.path.resolve().is_relative_to(STOCK):
        return Entry(config[key], kind, file.path)
    tags = config.get("tag") or []
    return Entry(config[key], kind, None, config, {tags} if isinstance(tags, str) else set(map(str, tags)))


@functools.cache
def _stock_index() -> dict[str, Entry]:
    return dict(TaskManager().task_index)


def _reach(index: Mapping[str, Entry], name: str) -> Iterator[tuple[str, Entry]]:
    """Yield the entries of a name, including members of groups and tags. Raises _Missing if there is none."""
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, ())]
    count = 0
    while waiting:
        key, above = waiting.pop()
        entry = index.get(key)
        if entry is None:
            raise _Missing(key)
        count += 1
        if key in above or count > MAX_MEMBERS:
            why = "is a member of itself" if key in above else f"has more than {MAX_MEMBERS} members"
            raise EvaluatorError(f"The group {key if key in above else name!r} {why}.")
        yield key, entry
        members = sorted(entry.tags) if entry.kind is Kind.TAG else _members(entry.cfg or {})
        waiting += [(member, (*above, key)) for member in members]


def _members(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a group refers to; inline tasks and groups hold their own configuration."""
    listed = config.get("task")
    for member in listed if isinstance(listed, list) else []:
        named = member.get("task", member.get("group")) if isinstance(member, dict) else member
        if isinstance(named, list) and isinstance(member, dict):
            yield from _members(member)
        elif not isinstance(named, str):
            raise EvaluatorError(
                f"The group {config.get('group')!r} has the member {shown(member)!r}; expected the name of a task."
            )
        elif not (isinstance(member, dict) and any(key in member for key in INLINE)):
            yield named


def _importable(entry: Entry, file: TaskFile, allow_code: bool) -> Entry:
    """Return the entry with its functions imported if that is allowed; otherwise it must have none."""
    if entry.yaml_path is not None:
        return entry
    if not allow_code:
        refuse_code(entry.name, file)
    return Entry(entry.name, entry.kind, None, _imported(entry.name, entry.cfg), entry.tags)


def refuse_code(name: str, file: TaskFile) -> None:
    """Raise EvaluatorError, with the line, if a local task file runs Python code."""
    for where, what in _code_in(file):
        raise EvaluatorError(
            f"{where}: task {name!r}: the file {what}, which runs code. Read it, and "
            "set `allow_code: true` if you trust it."
        )


def _code_in(file: TaskFile) -> Iterator[tuple[str, str]]:
    for function in file.functions():
        yield function.where, f"has the tag !function ({shown(function.name)})"
    for path, config in _configurations(file.config, ()):
        for key, harmless in _RUNS.items():
            if config.get(key, harmless) != harmless:
                yield file.where(*path, key), f"sets {key}"
        data = config.get("dataset_path")
        if isinstance(data, str) and _is_script(file.path.parent, data):
            yield file.where(*path, "dataset_path"), f"reads its data with the Python script {shown(data)!r}"
        metrics = config.get("metric_list")
        for index, metric in enumerate(metrics if isinstance(metrics, list) else ()):
            if isinstance(metric, dict) and metric.get("hf_evaluate", False) is not False:
                where = file.where(*path, "metric_list", index, "hf_evaluate")
                yield where, "sets hf_evaluate"


def _configurations(config: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield the configuration of a task or group and those it gives to its members, with their paths."""
    yield path, config
    listed = config.get("task")
    for index, member in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(member, dict):
            yield from _configurations(member, (*path, "task", index))


def _is_script(folder: Path, name: str) -> bool:
    return name.endswith(".py") or any((path / f"{path.name}.py").exists() for path in (Path(name), folder / name))


def _imported(name: str, data: Any) -> Any:
    """Return the configuration with its functions imported the way lm-eval imports them."""
    if isinstance(data, Function):
        try:
            return _import_func_in_yml(data.name, data.folder)
        except Exception as error:
            raise EvaluatorError(
                f"{data.where}: task {name!r}: the function {shown(data.name)!r} cannot be imported: {shown(error)}."
            ) from error
    if isinstance(data, dict):
        return {key: _imported(name, value) for key, value in data.items()}
    return [_imported(name, value) for value in data] if isinstance(data, list) else data
