"""A mergekit configuration as data: the contents of its file, before anything is looked up.

Schema: https://github.com/arcee-ai/mergekit#merge-configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evomerge.errors import EvomergeError
from evomerge.merging.mergekit.methods import METHODS, Row
from evomerge.merging.mergekit.settings import Setting
from evomerge.recipe import Input
from evomerge.recipe.model_names import MAIN

#: Receives sentences for the user about ignored settings.
Note = Callable[[str], None]
Settings = Mapping[str, Setting]
#: evomerge's own key in such a file, which mergekit ignores.
OWN = "evomerge"


class InteropError(EvomergeError):
    """A configuration that cannot be read, or a merge that mergekit cannot express; the message names the part."""


@dataclass(frozen=True)
class Reference:
    """A model as mergekit names it: a folder or a hub name, with an optional adapter of either kind."""

    path: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    def as_input(self, name: str) -> Input:
        """Return the model under a name; a hub name gets a revision, which distinguishes it from a path."""
        lora = (self.adapter, self.adapter_revision)
        adapter, revision = lora if self.adapter is None else _told_apart(self.adapter, self.adapter_revision)
        return Input(name, *_told_apart(self.path, self.revision), adapter, adapter_revision=revision)


def _told_apart(path: str, revision: str | None) -> tuple[str, str | None]:
    return path, revision or (None if Path(path).exists() else MAIN)


@dataclass(frozen=True)
class Taken:
    """A model in a slice. first, blocks: its layers, None for all of them. at: its location in the file."""

    model: Reference
    settings: Settings
    first: int = 0
    blocks: int | None = None
    at: strict_yaml.Path = ()


@dataclass(frozen=True)
class Piece:
    """A run of layers of the result and the models that it is merged from. base: overrides the whole merge's."""

    sources: tuple[Taken, ...]
    settings: Settings = field(default_factory=dict)
    base: Reference | None = None
    at: strict_yaml.Path = ()


@dataclass(frozen=True)
class Configuration:
    """The contents of a file. sliced: whether it has `slices`; otherwise `models` are a single piece.

    module: settings between slice and whole merge, of the only module.
    tokenizer: "base", "union" or a model; tokens: exceptions, unparsed. own: contents written by evomerge.
    """

    method: str
    pieces: tuple[Piece, ...]
    sliced: bool
    base: Reference | None = None
    settings: Settings = field(default_factory=dict)
    module: Settings = field(default_factory=dict)
    dtype: str | None = None
    tokenizer: str | Reference | None = None
    tokens: Mapping[str, Any] = field(default_factory=dict)
    multiple_of: int | None = None
    chat_template: str | None = None
    own: Any = None

    @property
    def row(self) -> Row:
        """The corresponding method here."""
        return METHODS[self.method]
