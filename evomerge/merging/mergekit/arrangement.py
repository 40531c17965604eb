"""Models of a mergekit configuration: base and inputs of every slice, each with a name of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.merging.mergekit.configuration import Configuration, Piece, Reference, Taken
from evomerge.merging.mergekit.file import FileReader
from evomerge.merging.mergekit.settings import read_flag
from evomerge.merging.mergekit.template import chat_template
from evomerge.recipe import Recipe, Slice, TokenRow, Vocabulary

_BASE = "base"
#: Names that inputs must not have, since they have another meaning.
_RESERVED = (_BASE, "union")


@dataclass(frozen=True)
class Part:
    """A slice: inputs by name, in order; whether it merges differences to its base, and the base itself."""

    piece: Piece
    inputs: Mapping[str, Taken]
    base: Taken
    on_base: bool


@dataclass(frozen=True)
class Arrangement:
    """The recipe without the method's options, and the slices that it was built from."""

    recipe: Recipe
    parts: tuple[Part, ...]


def arrange(reader: FileReader, configuration: Configuration, base: Reference | None = None) -> Arrangement:
    """Give every model its role and name. base: model whose configuration the result gets without a base_model.

    Raises InteropError for models that the method does not support.
    """
    return _Arranger(reader, configuration, base).arrangement()


class _Arranger:
    def __init__(self, reader: FileReader, configuration: Configuration, base: Reference | None) -> None:
        self.reader = reader
        self.configuration = configuration
        self.told = configuration.base or base
        self.base = self.told or configuration.pieces[0].base or configuration.pieces[0].sources[0].model
        #: Model -> its name as an input.
        self.names: dict[Reference, str] = {}

    def arrangement(self) -> Arrangement:
        configuration = self.configuration
        self.say_whose_configuration()
        parts = tuple(self.part(piece) for piece in configuration.pieces)
        slices = tuple(self.slice(part) for part in parts) if configuration.sliced else ()
        recipe = Recipe(
            base=self.base.as_input(_BASE),
            inputs=tuple(model.as_input(name) for model, name in self.names.items()),
            method=configuration.row.ours,
            dtype=configuration.dtype,
            tokenizer=self.tokenizer(),
            slices=slices,
            vocabulary=self.vocabulary(parts),
            chat_template=chat_template(
                self.reader, configuration.chat_template, dict.fromkeys([self.base, *self.names])
            ),
        )
        return Arrangement(recipe, parts)

    def say_whose_configuration(self) -> None:
        models = {source.model for piece in self.configuration.pieces for source in piece.sources}
        if self.told is None and len(models) > 1:
            self.reader.note(
                f"without base_model, configuration and tokenizer are those of {self.base.path}; mergekit uses those "
                "of any of the models"
            )

    def part(self, piece: Piece) -> Part:
        """Return base and inputs of a slice."""
        seen = [source.model for source in piece.sources]
        for n, source in enumerate(piece.sources):
            if source.model in seen[:n]:
                self.reader.refuse(source.at, f"{source.model.path} appears twice among the sources of this slice")
        base = piece.base or self.configuration.base
        kind = self.configuration.row.base
        if kind == "required" and base is None:
            self.reader.refuse((), f"{self.configuration.method} needs a `base_model`")
        if kind == "none" or base is None:
            return self.without_base(piece, base)
        return self.on_base(piece, base)

    def without_base(self, piece: Piece, base: Reference | None) -> Part:
        sources = piece.sources
        if not self.configuration.sliced and base is not None and base not in [source.model for source in sources]:
            self.reader.note(
                f"the base_model {base.path} is not a list entry: it counts as an additional model, as in mergekit"
            )
            sources = (*sources, Taken(base, {}))
        first = sources[0]
        return Part(piece, {self.name(source.model): source for source in sources}, first, on_base=False)

    def on_base(self, piece: Piece, base: Reference) -> Part:
        taken = next((source for source in piece.sources if source.model == base), None)
        if taken is None:
            if self.configuration.sliced:
                self.reader.refuse(piece.at, f"the base model {base.path} must be a source of every slice")
            taken = Taken(base, {})
        elif taken.settings:
            self.reader.note(f"{', '.join(taken.settings)} of the base model {base.path} has no effect in mergekit")
        others = [source for source in piece.sources if source.model != base]
        # A base alone is merged with itself: no differences, so nothing changes.
        inputs = {self.name(source.model): source for source in others or [taken]}
        return Part(piece, inputs, taken, on_base=True)

    def slice(self, part: Part) -> Slice:
        label = _BASE if part.on_base and part.base.model == self.base else self.name(part.base.model)
        inputs = {name: source.first for name, source in part.inputs.items()}
        return Slice(part.base.blocks or 0, (label, part.base.first), inputs)

    def name(self, model: Reference) -> str:
        """Return a model's name as an input: the last part of its path, numbered if ambiguous."""
        if model not in self.names:
            parts = [Path(path).name for path in (model.path, model.adapter) if path]
            own = name = "+".join(parts)
            number = 2
            while name in (*_RESERVED, *self.names.values()):
                name, number = f"{own}-{number}", number + 1
            self.names[model] = name
        return self.names[model]

    def label(self, model: Reference, path: tuple[str, ...]) -> str:
        """Return the name of a model in the merge, as base or as input."""
        if model == self.base:
            return _BASE
        if model not in self.names:
            self.reader.refuse(path, f"{model.path} is not in the merge; the tokenizer must come from a merged model")
        return self.names[model]

    def tokenizer(self) -> str | None:
        source = self.configuration.tokenizer
        return self.label(source, ("tokenizer",)) if isinstance(source, Reference) else source

    def vocabulary(self, parts: tuple[Part, ...]) -> Vocabulary | None:
        if self.configuration.tokenizer is None:
            return None
        shared = self.configuration.base is not None and all(
            part.on_base or self.base in [source.model for source in part.inputs.values()] for part in parts
        )
        tokens = {token: self.token_row(token, given) for token, given in self.configuration.tokens.items()}
        return Vocabulary(self.configuration.multiple_of or 1, "base" if shared else "inputs", tokens)

    def token_row(self, token: str, data: Any) -> TokenRow:
        path = ("tokenizer", "tokens", token)
        given = self.reader.known(data, path, ("source", "force"))
        force = read_flag(self.reader, given.get("force", False), (*path, "force"))
        source, at = given.get("source"), (*path, "source")
        if not isinstance(source, dict) or "kind" not in source:
            return TokenRow(self.label(self.reader.reference(source, at), at), force=force)
        if self.reader.choice(source["kind"], (*at, "kind"), ("zero", "model_token")) == "zero":
            return TokenRow(force=force)
        source = self.reader.known(source, at, ("kind", "model", "token", "token_id"))
        number, text = source.get("token_id"), source.get("token")
        if (number is None) == (text is None):
            self.reader.refuse(at, "expected either `token` or `token_id`")
        if number is not None:
            number = self.reader.integer(number, (*at, "token_id"), 0)
        model = self.reader.reference(source.get("model"), (*at, "model"))
        return TokenRow(self.label(model, at), text, number, force)
