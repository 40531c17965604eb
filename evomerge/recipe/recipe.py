"""Recipe: what is merged and how. Merge = recipe + coefficients + seed: all that makes the weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from evomerge.errors import EvomergeError
from evomerge.text.printable import is_name
from search_spaces.base import CoefficientTable

DTYPES = ("float32", "bfloat16", "float16")


class RecipeError(EvomergeError):
    """A recipe file that cannot be read, or a recipe that contradicts itself."""


@dataclass(frozen=True)
class Input:
    """A model to merge: a short unique name, where it lies, and its revision where it comes from a hub.

    adapter: a LoRA to put on the model first, and adapter_revision: its revision where it comes from a hub.
    statistics: a file of its statistics from data.
    """

    name: str
    path: str
    revision: str | None = None
    adapter: str | None = None
    statistics: str | None = None
    adapter_revision: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the model, its adapter and its statistics lie; a hub name is a path that is not there."""
        return tuple(Path(text) for text in (self.path, self.adapter, self.statistics) if text is not None)


@dataclass(frozen=True)
class Slice:
    """A run of the result's blocks, taken from as many consecutive blocks of some models.

    base: the model whose blocks stand for the base's, and the first of them. inputs: name -> the first block.
    """

    blocks: int
    base: tuple[str, int]
    inputs: Mapping[str, int]


@dataclass(frozen=True)
class TokenRow:
    """The row that a token gets in models that lack it: that of a model's token, by text or id, or zeros.

    model: None for zeros. token, id: None for the same token. force: also in models that have the token.
    """

    model: str | None = None
    token: str | None = None
    id: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """How embeddings are made where vocabularies differ.

    multiple_of: their number of rows is rounded up to it, the mean of all rows filling up. missing: what a token
    gets in a model that lacks it while several others have it: the base's row ("base", where it has one), the mean
    of theirs ("mean"), or of those that are inputs ("inputs", zeros where none is), for methods that do not merge the
    base; of a token that one model has, that model's. tokens: exceptions.
    """

    multiple_of: int | None = None
    missing: Literal["base", "mean", "inputs"] = "base"
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Base, ordered inputs, method with its fixed options, dtype of the result and source of its tokenizer.

    dtype: "float32", "bfloat16", "float16", or None for the base's own. tokenizer: "base", an input's name, or
    "union" of all: rows of embeddings are matched by token; None: the base's, and rows are matched by place.
    slices: where the result's blocks come from; none: each from the same block of every model.
    chat_template: the text of the result's chat template (Jinja), instead of its tokenizer's own.
    """

    base: Input
    inputs: tuple[Input, ...]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    tokenizer: str | None = None
    slices: tuple[Slice, ...] = ()
    vocabulary: Vocabulary | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        names = [model.name for model in (self.base, *self.inputs)]
        if len(set(names)) != len(names):
            raise RecipeError(f"Every model needs a name of its own; they are {', '.join(names)}.")
        unfit = next((name for name in names if not is_name(name)), None)
        if unfit is not None:
            raise RecipeError(f"The name {unfit!a} holds characters that cannot be shown; give the model another.")
        if not self.inputs:
            raise RecipeError("A recipe needs at least one model to merge into the base.")
        for part in self.slices:
            strangers = [name for name in (part.base[0], *part.inputs) if name not in names]
            if strangers or part.blocks < 1 or not part.inputs:
                raise RecipeError(
                    f"A slice needs at least one block and at least one input of the recipe ({', '.join(names)}); "
                    f"this one has {part.blocks} block(s) of {', '.join(part.inputs) or 'no input'}."
                )

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of all models, the base's first."""
        return tuple(path for model in (self.base, *self.inputs) for path in model.paths)

    @property
    def fingerprint(self) -> str:
        """Hash of the canonical JSON of the recipe: 16 hex digits."""
        text = json.dumps(_plain(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Merge:
    """One candidate, completely: anybody can make the same weights from it, bit for bit."""

    recipe: Recipe
    table: CoefficientTable
    seed: int = 0


def _plain(recipe: Recipe) -> dict[str, Any]:
    """All that a recipe says; what came to recipes later, only where it is used."""
    data = asdict(recipe)
    for model in (data["base"], *data["inputs"]):
        for key in ("adapter", "statistics", "adapter_revision"):
            if model[key] is None:
                del model[key]
    for key in ("slices", "vocabulary", "chat_template"):
        if not data[key]:
            del data[key]
    return data
