"""Reader of a mergekit configuration file; every error has its line.

Unknown keys, which mergekit silently ignores, raise an error unless the reader is lenient.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evomerge import plugins
from evomerge.merging.mergekit.configuration import (
    OWN,
    Configuration,
    InteropError,
    Note,
    Piece,
    Reference,
    Settings,
    Taken,
)
from evomerge.merging.mergekit.methods import METHODS
from evomerge.merging.mergekit.settings import read_setting
from evomerge.recipe import DTYPES
from evomerge.recipe.file import MAX_BYTES
from evomerge.recipe.model_names import locate_name
from evomerge.yaml.kinds import read_document
from evomerge.yaml.reader import Reader, unknown_key

_TOP = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "name", OWN),
)
_MODULES = "modules other than one `default` (models of several parts, such as text and vision) are not supported"
#: Parameters without effect on weights, which are commonly set with any method.
_HARMLESS = ("int8_mask",)


def load_file(path: Path) -> strict_yaml.Document:
    """Read a file of mergekit or mergekit-evolve. Raises InteropError, which identifies files of other kinds."""
    missing = "expected a configuration of mergekit or mergekit-evolve."
    return read_document(path, "mergekit", "evolve", missing=missing, error=InteropError, max_bytes=MAX_BYTES)


class FileReader(Reader):
    """Reads one mergekit document."""

    def __init__(self, document: strict_yaml.Document, *, lenient: bool, note: Note) -> None:
        super().__init__(document, InteropError)
        self.folder = Path(document.source).parent
        self.own = isinstance(document.data, dict) and OWN in document.data
        self.lenient = lenient
        self.note = note
        self.method = ""

    def configuration(self) -> Configuration:
        """Return the whole configuration."""
        data = self.known(self.document.data, (), _TOP)
        if data.get("name") is not None:
            self.note(f"{self.document.where('name')}: name, which only mergekit-multi reads, was ignored")
        self.method = self.text(data.get("merge_method"), ("merge_method",))
        if self.method not in METHODS:
            self.refuse(("merge_method",), unknown_key(self.method, METHODS).replace("key", "method"))
        if METHODS[self.method].ours not in plugins.names("merge method"):
            self.refuse(("merge_method",), f"mergekit's {self.method} is not supported")
        inner, at = self.module(data)
        given = [key for key in ("models", "slices") if inner.get(key)]
        if len(given) != 1:
            self.refuse(at, f"expected either `models` or `slices`; got {' and '.join(given) or 'neither'}")
        entries = self.sequence(inner[given[0]], (*at, given[0]))
        pieces = self.slices(entries, at) if given == ["slices"] else (self.models(entries, at),)
        tokenizer, tokens, multiple_of = self.tokenizer(data)
        return Configuration(
            method=self.method,
            pieces=pieces,
            sliced=given == ["slices"],
            base=None if data.get("base_model") is None else self.reference(data["base_model"], ("base_model",)),
            settings=self.settings(data, ()),
            module=self.settings(inner, at) if at else {},
            dtype=self.dtype(data),
            tokenizer=tokenizer,
            tokens=tokens,
            multiple_of=multiple_of,
            chat_template=self.optional_text(data, "chat_template"),
            own=data.get(OWN),
        )

    def known(self, data: Any, path: strict_yaml.Path, keys: tuple[str, ...]) -> dict[str, Any]:
        """Return a mapping of these keys; others raise an error, or are reported and ignored."""
        given = self.mapping(data, path)
        for key in given:
            if key not in keys:
                self.passed_over((*path, key), unknown_key(key, keys))
        return {key: value for key, value in given.items() if key in keys}

    def passed_over(self, path: strict_yaml.Path, why: str) -> None:
        """Raise an error for a setting that mergekit silently ignores; if lenient, report and ignore it."""
        if not self.lenient:
            self.refuse(path, f"{why} (mergekit ignores it; so does --lenient)")
        self.note(f"{self.document.where(*path)}: {'.'.join(map(str, path))} was ignored: {why}")

    def module(self, data: dict[str, Any]) -> tuple[dict[str, Any], strict_yaml.Path]:
        """Return the location of `models` or `slices`: in the only module, named `default`, or at the top level."""
        modules = self.mapping(data.get("modules") or {}, ("modules",))
        if not modules:
            return data, ()
        if tuple(modules) != ("default",) or data.get("models") or data.get("slices"):
            self.refuse(("modules",), _MODULES)
        at = ("modules", "default")
        return self.known(modules["default"], at, ("models", "slices", "parameters")), at

    def models(self, entries: list[Any], path: strict_yaml.Path) -> Piece:
        """Read `models`: all layers of each."""
        return Piece(tuple(self.source(entry, (*path, "models", n)) for n, entry in enumerate(entries)), at=path)

    def slices(self, entries: list[Any], path: strict_yaml.Path) -> tuple[Piece, ...]:
        """Read `slices`."""
        ends = (0, len(entries) - 1) if len(entries) > 1 else ()
        return tuple(self.piece(entry, (*path, "slices", n), 0 if n in ends else 1) for n, entry in enumerate(entries))

    def piece(self, data: Any, path: strict_yaml.Path, least: int) -> Piece:
        """Read one slice of at least so many layers; one without layers says whose embeddings or head are used."""
        given = self.known(data, path, ("sources", "base_model", "parameters", "residual_weight"))
        if given.get("residual_weight") is not None:
            self.note(f"{self.document.where(*path)}: residual_weight has no effect in mergekit and was ignored")
        entries = self.sequence(given.get("sources"), (*path, "sources"))
        sources = tuple(self.source(entry, (*path, "sources", n), least=least) for n, entry in enumerate(entries))
        if len({source.blocks for source in sources}) != 1:
            lengths = ", ".join(str(source.blocks) for source in sources)
            self.refuse((*path, "sources"), f"the sources of a slice need the same number of layers; got {lengths}")
        base = given.get("base_model")
        return Piece(
            sources,
            self.settings(given, path),
            None if base is None else self.reference(base, (*path, "base_model")),
            path,
        )

    def source(self, data: Any, path: strict_yaml.Path, *, least: int | None = None) -> Taken:
        """Read a model in `models`, or with its layers in a slice, at least so many."""
        given = self.known(data, path, ("model", "parameters", *(() if least is None else ("layer_range",))))
        if "model" not in given:
            self.refuse(path, "a source needs a `model`")
        model, settings = self.reference(given["model"], (*path, "model")), self.settings(given, path, each=True)
        if least is None:
            return Taken(model, settings, at=path)
        ends = given.get("layer_range")
        if (
            not isinstance(ends, list)
            or [type(end) for end in ends] != [int, int]
            or not 0 <= ends[0] <= ends[1] - least
        ):
            self.refuse((*path, "layer_range"), f"expected [first layer, layer after the last]; got {ends!r}")
        return Taken(model, settings, ends[0], ends[1] - ends[0], path)

    def settings(self, data: Mapping[str, Any], path: strict_yaml.Path, *, each: bool = False) -> Settings:
        """Read `parameters`. each: those of one model."""
        keys = METHODS[self.method].keys
        found = {}
        for name, value in self.mapping(data.get("parameters") or {}, (*path, "parameters")).items():
            at = (*path, "parameters", name)
            if name not in keys and name not in _HARMLESS:
                self.passed_over(at, unknown_key(name, keys).replace("key", f"parameter of {self.method}"))
            elif name not in keys or (not keys[name].ours and keys[name].values is None):
                read_setting(self, value, at, keys[name].kind if name in keys else "flag")
                self.note(f"{self.document.where(*at)}: {name} has no effect on {self.method} and was ignored")
            elif each and not keys[name].each:
                self.passed_over(at, f"{name} applies to all models and belongs in the outer `parameters`")
            else:
                found[name] = read_setting(self, value, at, keys[name].kind)
        return found

    def reference(self, data: Any, path: strict_yaml.Path) -> Reference:
        """Read a model: `path@revision+adapter@revision`, or {model: {path, revision}, lora: {path, revision}}."""
        if isinstance(data, str) and data:
            model, _, adapter = data.partition("+")
            data = {"model": model, "lora": adapter or None}
        given = self.known(data, path, ("model", "lora", "override_architecture"))
        if given.get("override_architecture") is not None:
            self.refuse(path, "override_architecture is not supported: tensors have the names in the files")
        model_path, revision = self.located(given.get("model"), (*path, "model"))
        if given.get("lora") is None:
            return Reference(model_path, revision)
        return Reference(model_path, revision, *self.located(given["lora"], (*path, "lora")))

    def located(self, data: Any, path: strict_yaml.Path) -> tuple[str, str | None]:
        """Return path and revision of a model or an adapter."""
        if isinstance(data, dict):
            given = self.known(data, path, ("path", "revision"))
            revision = given.get("revision")
            if revision is not None:
                return self.text(given.get("path"), path), self.text(revision, path)
            return self.place(self.text(given.get("path"), path))
        text = self.text(data, path[:-1])
        if text.count("@") > 1 or "+" in text:
            self.refuse(path[:-1], f"expected PATH@REVISION+ADAPTER@REVISION; got {text!r}")
        name, _, revision = text.partition("@")
        self.text(name, path[:-1])
        return (name, revision) if revision else self.place(name)

    def place(self, name: str) -> tuple[str, str | None]:
        """Return path and revision of a model named without a revision.

        As in mergekit, paths start at the working folder; paths that do not exist there are tried next to the file. In
        files written by evomerge all paths start at the file's folder.
        """
        if self.own:
            return locate_name(name, self.folder)
        beside = self.folder / name
        return (str(beside), None) if not Path(name).exists() and beside.exists() else (name, None)

    def dtype(self, data: Mapping[str, Any]) -> str | None:
        """Return the dtype of the result: `out_dtype`, or else `dtype`."""
        key = "out_dtype" if data.get("out_dtype") is not None else "dtype"
        if data.get(key) is None:
            return None
        name = self.text(data[key], (key,)).removeprefix("torch.")
        return str(self.choice(name, (key,), DTYPES))

    def tokenizer(self, data: Mapping[str, Any]) -> tuple[str | Reference | None, Mapping[str, Any], int | None]:
        """Return the source of the tokenizer, exceptions for tokens, and the multiple to round the rows to."""
        if data.get("tokenizer_source") is not None and data.get("tokenizer") is not None:
            self.refuse(("tokenizer",), "expected either `tokenizer` or the older `tokenizer_source`; got both")
        if data.get("tokenizer") is None:
            source = data.get("tokenizer_source")
            return None if source is None else self.vocabulary_of(source, ("tokenizer_source",)), {}, None
        path: strict_yaml.Path = ("tokenizer",)
        given = self.known(data["tokenizer"], path, ("source", "tokens", "pad_to_multiple_of"))
        multiple = given.get("pad_to_multiple_of")
        if multiple is not None:
            multiple = self.integer(multiple, (*path, "pad_to_multiple_of"), 1)
        tokens = self.mapping(given.get("tokens") or {}, (*path, "tokens"))
        return self.vocabulary_of(given.get("source", "union"), (*path, "source")), tokens, multiple

    def vocabulary_of(self, data: Any, path: strict_yaml.Path) -> str | Reference:
        """Read `base`, `union` or a model."""
        return str(data) if data in ("base", "union") else self.reference(data, path)

    def sequence(self, data: Any, path: strict_yaml.Path) -> list[Any]:
        """Read a non-empty list."""
        if not isinstance(data, list) or not data:
            self.refuse(path, f"expected a list of models; got {data!r}")
        return data

    def optional_text(self, data: Mapping[str, Any], key: str) -> str | None:
        """Read text, or None if it is absent."""
        return None if data.get(key) is None else self.text(data[key], (key,))
