"""lm-eval task files, read here as bounded plain data with line numbers; functions are named but not imported."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks._yaml_loader import load_yaml

from evaluators import _strict_yaml as strict_yaml
from evaluators import _texts
from evaluators.base import EvaluatorError

#: Tasks shipped with lm-eval are code that the user installed.
STOCK = Path(lm_eval.__file__).parent.resolve()

_FUNCTION = "!function"
_YAML_1_1 = yaml.constructor.SafeConstructor()
_TYPES: Mapping[str, tuple[type, ...]] = {
    "task": (str, list),
    "group": (str,),
    "tag": (str, list),
    "include": (str, list),
}


@dataclass(frozen=True)
class Function:
    """A Python function named by a task file. folder: the first folder in which its module is looked up."""

    name: str
    folder: Path
    where: str


@dataclass(frozen=True)
class TaskFile:
    """A task or group as lm-eval reads its file: includes are merged in, its own keys take precedence.

    documents: top-level key -> the document that contains it. included: the other files it consists of, resolved.
    """

    path: Path
    config: dict[str, Any]
    documents: Mapping[str, strict_yaml.Document] = field(default_factory=dict)
    included: frozenset[Path] = frozenset()

    def where(self, *path: str | int) -> str:
        """Return `file:line` of the value at `path`, or of the file's beginning for a key that is not in it."""
        document = self.documents.get(str(path[0])) if path else None
        return f"{shown(self.path)}:1" if document is None else document.where(*path)

    def functions(self) -> Iterator[Function]:
        """Yield all functions named by the file and its includes."""
        return _functions(self.config)

    def member(self, name: str, *path: str | int) -> str | None:
        """Return `file:line` of a value that a group's file sets for its member `name`; None if it sets none."""
        document = self.documents.get("task")
        for prefix in () if document is None else _members(self.config.get("task"), name, ("task",)):
            if document is not None and (*prefix, *path[:1]) in document.lines:
                return document.where(*prefix, *path)
        return None


class Reader:
    """Reads task files, each once. lm-eval's own files are left to lm-eval's own reader."""

    def __init__(self) -> None:
        self._read: dict[Path, TaskFile] = {}

    def read(self, file: Path, above: tuple[Path, ...] = ()) -> TaskFile:
        """Read a task file with its includes. Raises EvaluatorError, with the line, if it is invalid."""
        path = file.resolve()
        if path in above:
            raise EvaluatorError(f"{shown(file)} includes itself, through {shown(above[-1])}.")
        if path not in self._read:
            self._read[path] = self._merged(file, path, above)
        return self._read[path]

    def _merged(self, file: Path, path: Path, above: tuple[Path, ...]) -> TaskFile:
        document = _document(file, path)
        config: dict[str, Any] = {}
        documents: dict[str, strict_yaml.Document] = {}
        included: set[Path] = set()
        listed = document.data.get("include", [])
        for name in listed if isinstance(listed, list) else [listed]:
            if not isinstance(name, str):
                raise EvaluatorError(f"{document.where('include')}: `include` needs file names; it has {name!r}.")
            other = path.parent / name
            try:
                base = self._included(other, (*above, path))
            except EvaluatorError as error:
                raise EvaluatorError(f"{document.where('include')}: {error}") from error
            config |= {key: value for key, value in base.config.items() if key != "task_list"}
            documents |= base.documents
            included |= {other.resolve(), *base.included}
        own = {key: value for key, value in document.data.items() if key != "include"}
        return TaskFile(file, config | own, documents | dict.fromkeys(own, document), frozenset(included))

    def _included(self, file: Path, above: tuple[Path, ...]) -> TaskFile:
        if file.resolve().is_relative_to(STOCK):
            try:
                return TaskFile(file, load_yaml(file))
            except Exception as error:  # modules of lm-eval's tasks may need packages that are not installed
                raise EvaluatorError(f"lm-eval cannot read its own {shown(file)}: {shown(error)}.") from error
        return self.read(file, above)


def shown(text: object) -> str:
    """Return a name or message from a file on one line and without control characters."""
    one_line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in one_line)


def _document(file: Path, path: Path) -> strict_yaml.Document:
    if not path.exists():
        raise EvaluatorError(
            f"The task file {shown(file)!r} does not exist: expected a YAML file of lm-eval. Correct its path; in a "
            "search file or task file, relative paths start at that file's folder."
        )
    if not path.is_file():
        raise EvaluatorError(f"The task file {shown(file)!r} is not a regular file: expected a YAML file of lm-eval.")

    def scalar(node: yaml.ScalarNode) -> Any:
        if node.tag == _FUNCTION:
            return Function(node.value, path.parent, f"{shown(file)}:{node.start_mark.line + 1}")
        return _scalar(node)

    try:
        size = path.stat().st_size
        if size > strict_yaml.MAX_BYTES:
            raise EvaluatorError(f"{shown(file)}: {size} bytes; at most {strict_yaml.MAX_BYTES} are allowed.")
        text = _texts.read_text(path)
        document = strict_yaml.load(text, source=shown(file), tags=(_FUNCTION,), scalar=scalar)
    except (OSError, _texts.TextError) as error:
        raise EvaluatorError(f"The task file {shown(file)} cannot be read: {shown(error)}") from error
    except strict_yaml.StrictYamlError as error:
        raise EvaluatorError(shown(error)) from error
    if not isinstance(document.data, dict):
        raise EvaluatorError(f"{document.where()}: a task file is a mapping (task: NAME, dataset_path: ...).")
    for key, types in _TYPES.items():
        if key in document.data and not isinstance(document.data[key], types):
            got = shown(repr(document.data[key]))
            raise EvaluatorError(f"{document.where(key)}: `{key}` is {got}; expected a name.")
    return document


def _scalar(node: yaml.ScalarNode) -> Any:
    """Read a scalar as PyYAML and thus lm-eval do: YAML 1.1, where `no` is False and `1e-3` is text."""
    plain = yaml.SafeLoader.yaml_implicit_resolvers if node.style is None else {}
    found = plain.get(node.value[:1], [])
    tag = next((tag for tag, pattern in found if pattern.match(node.value)), "")
    construct = yaml.SafeLoader.yaml_constructors.get(tag)
    return node.value if construct is None else construct(_YAML_1_1, yaml.ScalarNode(tag, node.value))


def _functions(data: Any) -> Iterator[Function]:
    if isinstance(data, Function):
        yield data
    elif isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from _functions(value)


def _members(listed: Any, name: str, path: strict_yaml.Path) -> Iterator[strict_yaml.Path]:
    """Yield paths of the entries that configure the member `name` of a group, the nearest first."""
    for index, member in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(member, dict):
            place = (*path, index)
            yield from _members(member.get("task"), name, (*place, "task"))
            if member.get("task") == name:
                yield place
