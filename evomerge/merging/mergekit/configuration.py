"""A mergekit configuration as data: what its file says, before anything is looked up.

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

#: Takes sentences for people about what was read and left aside.
Note = Callable[[str], None]
Settings = Mapping[str, Setting]
#: The key of our own in such a file: mergekit passes over it.
OWN = "evomerge"


class InteropError(EvomergeError):
    """A configuration that cannot be read, or a merge that mergekit cannot express; the message says which part."""


@dataclass(frozen=True)
class Reference:
    """A model as mergekit names it: a folder or a name of the hub, and an adapter on it, of either kind."""

    path: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    def as_input(self, name: str) -> Input:
        """The model under a name; one of the hub has the revision that tells it apart from a path."""
        lora = (self.adapter, self.adapter_revision)
        adapter, revision = lora if self.adapter is None else _told_apart(self.adapter, self.adapter_revision)
        return Input(name, *_told_apart(self.path, self.revision), adapter, adapter_revision=revision)


def _told_apart(path: str, revision: str | None) -> tuple[str, str | None]:
    return path, revision or (None if Path(path).exists() else MAIN)


@dataclass(frozen=True)
class Taken:
    """A model in a slice. first, blocks: its layers, all of them where None. at: its place in the file."""

    model: Reference
    settings: Settings
    first: int = 0
    blocks: int | None = None
    at: strict_yaml.Path = ()


@dataclass(frozen=True)
class Piece:
    """A run of layers of the result and the models that it is made of. base: instead of the whole merge's."""

    sources: tuple[Taken, ...]
    settings: Settings = field(default_factory=dict)
    base: Reference | None = None
    at: strict_yaml.Path = ()


@dataclass(frozen=True)
class Configuration:
    """All that a file says. sliced: whether by `slices`; `models` are one piece.

    module: what comes between slice and whole merge, of the one module that there is.
    tokenizer: "base", "union" or a model; tokens: exceptions, as they stand. own: what evomerge wrote into it.
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
        """What the method is here."""
        return METHODS[self.method]
