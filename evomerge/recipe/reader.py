"""Reader of recipes from plain data; every error names its line."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluators import _strict_yaml as strict_yaml
from evomerge.recipe.model_names import locate_name, resolve_path
from evomerge.recipe.recipe import DTYPES, Input, Merge, Recipe, RecipeError, Slice, TokenRow, Vocabulary
from evomerge.yaml.reader import Reader
from search_spaces.base import CoefficientTable, SpaceError

#: Version of the recipe format.
FORMAT = 1

_REQUIRED = ("evomerge", "base", "inputs", "method")
_KEYS = (
    *(*_REQUIRED, "slices", "options", "dtype", "tokenizer", "vocabulary", "chat_template"),
    *("seed", "groups", "coefficients"),
)


class RecipeReader(Reader):
    """Reads one document. folder: start of the models' relative paths, None to keep them unchanged."""

    def __init__(self, document: strict_yaml.Document, folder: Path | None = None) -> None:
        super().__init__(document, RecipeError)
        self._folder = folder

    def merge(self) -> Merge:
        """Return the merge that it describes. Raises RecipeError."""
        data = self.mapping(self.document.data, (), known=_KEYS)
        for key in _REQUIRED:
            if key not in data:
                self.refuse((), f"a recipe needs `{key}`" + (f", version {FORMAT}" if key == "evomerge" else ""))
        if data["evomerge"] != FORMAT:
            self.refuse(("evomerge",), f"format {data['evomerge']!r} is unknown; this version reads {FORMAT}")
        seed = self.integer(data.get("seed", 0), ("seed",), 0)
        base, inputs = self._model(data["base"], ("base",), "base"), self._inputs(data["inputs"])
        names = [model.name for model in inputs]
        method = self.text(data["method"], ("method",))
        options = self.mapping(data.get("options") or {}, ("options",))
        dtype = self.choice(data.get("dtype"), ("dtype",), (None, *DTYPES))
        tokenizer = self.choice(data.get("tokenizer"), ("tokenizer",), (None, "base", "union", *names))
        vocabulary = self._vocabulary(data["vocabulary"], [base.name, *names]) if data.get("vocabulary") else None
        slices = self._slices(data.get("slices") or [])
        template = None if data.get("chat_template") is None else self.text(data["chat_template"], ("chat_template",))
        try:
            recipe = Recipe(base, inputs, method, options, dtype, tokenizer, slices, vocabulary, template)
        except RecipeError as error:
            self.refuse(("slices",) if slices else ("inputs",), str(error))
        try:
            return Merge(recipe, self._table(data, names), seed)
        except SpaceError as error:
            self.refuse(("coefficients",), str(error))

    def _inputs(self, data: Any) -> tuple[Input, ...]:
        if isinstance(data, dict):
            return tuple(self._model(value, ("inputs", name), name) for name, value in data.items())
        if not isinstance(data, list):
            self.refuse(("inputs",), f"inputs must be a list or a mapping of models; it is {data!r}")
        return tuple(self._model(value, ("inputs", n)) for n, value in enumerate(data))

    def _model(self, data: Any, path: strict_yaml.Path, name: str | None = None) -> Input:
        if isinstance(data, str):
            data = {"path": data}
        data = self.mapping(data, path, known=("name", "path", "revision", "adapter", "statistics"))
        if "path" not in data:
            self.refuse(path, f"a model needs a path; it is {data!r}")
        location, revision = self._located(data, path)
        name = self.text(data.get("name", name or Path(location).name), (*path, "name"))
        adapter, adapter_revision = self._adapter(data.get("adapter"), (*path, "adapter"))
        statistics = data.get("statistics")
        if statistics is not None:
            statistics = self.text(statistics, (*path, "statistics"))
            statistics = statistics if self._folder is None else resolve_path(statistics, self._folder)
        return Input(name, location, revision, adapter, statistics, adapter_revision)

    def _adapter(self, data: Any, path: strict_yaml.Path) -> tuple[str | None, str | None]:
        if data is None:
            return None, None
        if isinstance(data, str):
            data = {"path": data}
        return self._located(self.mapping(data, path, known=("path", "revision")), path)

    def _located(self, data: dict[str, Any], path: strict_yaml.Path) -> tuple[str, str | None]:
        """Return a local path, or a repository of the hub with its revision."""
        text = self.text(data.get("path"), (*path, "path"))
        if data.get("revision") is not None:
            return text, self.text(data["revision"], (*path, "revision"))
        return (text, None) if self._folder is None else locate_name(text, self._folder)

    def _slices(self, data: Any) -> tuple[Slice, ...]:
        if not isinstance(data, list):
            self.refuse(("slices",), f"slices must be a list; it is {data!r}")
        found = []
        for n, value in enumerate(data):
            path: strict_yaml.Path = ("slices", n)
            part = self.mapping(value, path, known=("blocks", "base", "inputs"))
            inputs = self._firsts(part.get("inputs"), (*path, "inputs"))
            base = self._firsts(part["base"], (*path, "base")) if "base" in part else inputs
            blocks = part.get("blocks")
            if type(blocks) is not int:
                self.refuse(path, f"a slice needs its number of `blocks`; it is {blocks!r}")
            found.append(Slice(blocks, next(iter(base.items())), inputs))
        return tuple(found)

    def _vocabulary(self, data: Any, models: list[str]) -> Vocabulary:
        path: strict_yaml.Path = ("vocabulary",)
        given = self.mapping(data, path, known=("multiple_of", "missing", "tokens"))
        multiple = given.get("multiple_of")
        if multiple is not None:
            multiple = self.integer(multiple, (*path, "multiple_of"), 1)
        tokens = {
            token: self._token_row(value, (*path, "tokens", token), models)
            for token, value in self.mapping(given.get("tokens") or {}, (*path, "tokens")).items()
        }
        missing = self.choice(given.get("missing", "base"), (*path, "missing"), ("base", "mean", "inputs"))
        return Vocabulary(multiple, missing, tokens)

    def _token_row(self, data: Any, path: strict_yaml.Path, models: list[str]) -> TokenRow:
        given = self.mapping(data, path, known=("model", "token", "id", "force"))
        model = self.choice(given.get("model"), (*path, "model"), (None, *models))
        token = None if given.get("token") is None else self.text(given["token"], (*path, "token"))
        number, force = given.get("id"), given.get("force", False)
        if number is not None:
            number = self.integer(number, (*path, "id"), 0)
        if type(force) is not bool:
            self.refuse((*path, "force"), f"expected true or false; got {force!r}")
        return TokenRow(model, token, number, force)

    def _firsts(self, data: Any, path: strict_yaml.Path) -> dict[str, int]:
        """Return model name -> first block."""
        given = self.mapping(data or {}, path)
        if not given:
            self.refuse(path, "expected a mapping of at least one model to its first block")
        return {name: self.integer(value, (*path, name), 0) for name, value in given.items()}

    def _table(self, data: dict[str, Any], inputs: list[str]) -> CoefficientTable:
        groups: dict[str, tuple[str, ...]] = {"all": ("*",)}
        if "groups" in data:
            given = self.mapping(data["groups"], ("groups",))
            groups = {group: self._members(value, ("groups", group)) for group, value in given.items()}
        values = {}
        for name, value in self.mapping(data.get("coefficients") or {}, ("coefficients",)).items():
            path: strict_yaml.Path = ("coefficients", name)
            if "groups" in data and isinstance(value, dict):
                by_group = self.mapping(value, path, known=tuple(groups), complete=True)
                rows = [self._row(by_group[group], (*path, group), inputs) for group in groups]
            else:
                rows = [self._row(value, path, inputs)] * len(groups)
            width = max(map(len, rows), default=1)
            values[name] = np.array([row * width if len(row) == 1 else row for row in rows]).reshape(-1, width)
        return CoefficientTable(groups, values)

    def _row(self, data: Any, path: strict_yaml.Path, inputs: list[str]) -> list[float]:
        if isinstance(data, dict):
            by_input = self.mapping(data, path, known=tuple(inputs), complete=True)
            return [self.number(by_input[name], (*path, name)) for name in inputs]
        if not isinstance(data, list):
            return [self.number(data, path)]
        if len(data) not in (1, len(inputs)):
            self.refuse(path, f"expected {len(inputs)} numbers, one for each of {', '.join(inputs)}; got {len(data)}")
        return [self.number(value, (*path, n)) for n, value in enumerate(data)]

    def _members(self, data: Any, path: strict_yaml.Path) -> tuple[str, ...]:
        names = [data] if isinstance(data, str) else data
        if not isinstance(names, list):
            self.refuse(path, f"a group is a list of tensor names or patterns; it is {data!r}")
        return tuple(self.text(name, (*path, n)) for n, name in enumerate(names))
