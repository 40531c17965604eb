"""Recipe: what is merged and how. Merge = recipe + coefficients + seed: all that makes the weights."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evomerge import strict_yaml
from evomerge.plain_data import Reader
from search_spaces.base import CoefficientTable, SpaceError

FORMAT = 1
DTYPES = ("float32", "bfloat16", "float16")
#: Groups that name every tensor of a large mixture of experts take some megabytes.
MAX_BYTES = 64_000_000


class RecipeError(ValueError):
    """A recipe file that cannot be read, or a recipe that contradicts itself."""


@dataclass(frozen=True)
class Input:
    """A model to merge: a short unique name, where it lies, and its revision where it comes from a hub."""

    name: str
    path: str
    revision: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Base, ordered inputs, method with its fixed options, dtype of the result and source of its tokenizer.

    dtype: "float32", "bfloat16", "float16", or None for the base's own. tokenizer: "base" or an input's name.
    """

    base: Input
    inputs: tuple[Input, ...]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    tokenizer: str = "base"

    def __post_init__(self) -> None:
        names = [model.name for model in (self.base, *self.inputs)]
        if len(set(names)) != len(names):
            raise RecipeError(f"Every model needs a name of its own; they are {', '.join(names)}.")
        if not self.inputs:
            raise RecipeError("A recipe needs at least one model to merge into the base.")

    @property
    def fingerprint(self) -> str:
        """Hash of the canonical JSON of the recipe: 16 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Merge:
    """One candidate, completely: anybody can make the same weights from it, bit for bit."""

    recipe: Recipe
    table: CoefficientTable
    seed: int = 0


def merge_to_dict(merge: Merge) -> dict[str, Any]:
    """Plain data (JSON, YAML) from a merge; floats survive bit for bit."""
    return {
        "evomerge": FORMAT,
        "base": _input_to_dict(merge.recipe.base),
        "inputs": [_input_to_dict(model) for model in merge.recipe.inputs],
        "method": merge.recipe.method,
        "options": dict(merge.recipe.options),
        "dtype": merge.recipe.dtype,
        "tokenizer": merge.recipe.tokenizer,
        "seed": merge.seed,
        "groups": {group: list(members) for group, members in merge.table.groups.items()},
        "coefficients": {
            name: {group: [float(value) for value in row] for group, row in zip(merge.table.groups, array, strict=True)}
            for name, array in merge.table.values.items()
        },
    }


def merge_from_dict(data: Any) -> Merge:
    """The merge that `merge_to_dict` wrote, or a shorter one by hand. Raises RecipeError.

    Only `evomerge`, `base`, `inputs` and `method` must be there. `inputs` is a list of models or a mapping
    name -> model, a model a path or {name, path, revision}. Without `groups` there is one, `all`, with every
    tensor. A coefficient is a number, a list with one number per input, or a mapping input -> number;
    with `groups` a number or list for all of them, or a mapping group -> one of these three.
    """
    return _Reader(strict_yaml.Document(data, "recipe")).merge()


def read_merge(path: Path) -> Merge:
    """Read a recipe file; relative model paths are relative to the file. Raises RecipeError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Cannot read the recipe {path}: {error}.") from error
    try:
        document = strict_yaml.load(text, source=str(path), max_bytes=MAX_BYTES)
    except strict_yaml.StrictYamlError as error:
        raise RecipeError(str(error)) from error
    return _Reader(document, path.absolute().parent).merge()


def write_merge(merge: Merge, path: Path) -> None:
    """Write a recipe file that `read_merge` reads back; local model paths are written absolute."""
    data = merge_to_dict(merge)
    for model in (data["base"], *data["inputs"]):
        if "revision" not in model:
            model["path"] = str(Path(model["path"]).absolute())
    path.write_text(strict_yaml.dump(data), encoding="utf-8")


def resolve_path(path: str, folder: Path) -> str:
    """A path from a file in `folder`: `~` is the home, what is relative is relative to the folder."""
    return os.path.normpath(folder / Path(path).expanduser())


def _input_to_dict(model: Input) -> dict[str, Any]:
    return {key: value for key, value in asdict(model).items() if value is not None}


_REQUIRED = ("evomerge", "base", "inputs", "method")
_KEYS = (*_REQUIRED, "options", "dtype", "tokenizer", "seed", "groups", "coefficients")


class _Reader(Reader):
    """Reads one document; every refusal names the line."""

    def __init__(self, document: strict_yaml.Document, folder: Path | None = None) -> None:
        super().__init__(document, RecipeError)
        self.folder = folder

    def merge(self) -> Merge:
        data = self.mapping(self.document.data, (), known=_KEYS)
        for key in _REQUIRED:
            if key not in data:
                self.refuse((), f"a recipe needs `{key}`" + (f", which is {FORMAT}" if key == "evomerge" else ""))
        if data["evomerge"] != FORMAT:
            self.refuse(("evomerge",), f"format {data['evomerge']!r} is unknown; this version reads {FORMAT}")
        seed = data.get("seed", 0)
        if type(seed) is not int or seed < 0:
            self.refuse(("seed",), f"expected a whole number from 0; got {seed!r}")
        base, inputs = self.model(data["base"], ("base",), "base"), self.inputs(data["inputs"])
        names = [model.name for model in inputs]
        method = self.text(data["method"], ("method",))
        options = self.mapping(data.get("options") or {}, ("options",))
        dtype = self.choice(data.get("dtype"), ("dtype",), (None, *DTYPES))
        tokenizer = self.choice(data.get("tokenizer", "base"), ("tokenizer",), ("base", *names))
        try:
            recipe = Recipe(base, inputs, method, options, dtype, tokenizer)
        except RecipeError as error:
            self.refuse(("inputs",), str(error))
        try:
            return Merge(recipe, self.table(data, names), seed)
        except SpaceError as error:
            self.refuse(("coefficients",), str(error))

    def inputs(self, data: Any) -> tuple[Input, ...]:
        if isinstance(data, dict):
            return tuple(self.model(value, ("inputs", name), name) for name, value in data.items())
        if not isinstance(data, list):
            self.refuse(("inputs",), f"inputs must be a list or a mapping of models; it is {data!r}")
        return tuple(self.model(value, ("inputs", n)) for n, value in enumerate(data))

    def model(self, data: Any, path: strict_yaml.Path, name: str | None = None) -> Input:
        if isinstance(data, str):
            data = {"path": data}
        data = self.mapping(data, path, known=("name", "path", "revision"))
        if "path" not in data:
            self.refuse(path, f"a model needs a path; it is {data!r}")
        location = self.text(data["path"], (*path, "path"))
        name = self.text(data.get("name", name or Path(location).name), (*path, "name"))
        revision = data.get("revision")
        if revision is not None:
            return Input(name, location, self.text(revision, (*path, "revision")))
        return Input(name, location if self.folder is None else resolve_path(location, self.folder))

    def table(self, data: dict[str, Any], inputs: list[str]) -> CoefficientTable:
        groups: dict[str, tuple[str, ...]] = {"all": ("*",)}
        if "groups" in data:
            given = self.mapping(data["groups"], ("groups",))
            groups = {group: self.members(value, ("groups", group)) for group, value in given.items()}
        values = {}
        for name, value in self.mapping(data.get("coefficients") or {}, ("coefficients",)).items():
            path: strict_yaml.Path = ("coefficients", name)
            if "groups" in data and isinstance(value, dict):
                by_group = self.mapping(value, path, known=tuple(groups), complete=True)
                rows = [self.row(by_group[group], (*path, group), inputs) for group in groups]
            else:
                rows = [self.row(value, path, inputs)] * len(groups)
            width = max(map(len, rows), default=1)
            values[name] = np.array([row * width if len(row) == 1 else row for row in rows]).reshape(-1, width)
        return CoefficientTable(groups, values)

    def row(self, data: Any, path: strict_yaml.Path, inputs: list[str]) -> list[float]:
        if isinstance(data, dict):
            by_input = self.mapping(data, path, known=tuple(inputs), complete=True)
            return [self.number(by_input[name], (*path, name)) for name in inputs]
        if not isinstance(data, list):
            return [self.number(data, path)]
        if len(data) not in (1, len(inputs)):
            self.refuse(path, f"expected {len(inputs)} numbers, one for each of {', '.join(inputs)}; got {len(data)}")
        return [self.number(value, (*path, n)) for n, value in enumerate(data)]

    def members(self, data: Any, path: strict_yaml.Path) -> tuple[str, ...]:
        names = [data] if isinstance(data, str) else data
        if not isinstance(names, list):
            self.refuse(path, f"a group is a list of tensor names or patterns; it is {data!r}")
        return tuple(self.text(name, (*path, n)) for n, name in enumerate(names))
