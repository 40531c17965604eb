"""Recipe: models and method. Merge = recipe + coefficients + seed, which together determine the weights."""

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
    """A model to merge.

    Attributes:
        name: Short, unique name.
        path: Local path, or repository on the hub.
        revision: Revision of a hub repository.
        adapter: LoRA to apply to the model first.
        statistics: File with statistics of its activations or gradients on data.
        adapter_revision: Revision of the adapter's hub repository.
    """

    name: str
    path: str
    revision: str | None = None
    adapter: str | None = None
    statistics: str | None = None
    adapter_revision: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the paths of the model, its adapter and its statistics; a hub name is a path that does not exist."""
        return tuple(Path(text) for text in (self.path, self.adapter, self.statistics) if text is not None)


@dataclass(frozen=True)
class Slice:
    """A run of blocks of the result, taken from equally many consecutive blocks of some models.

    blocks: 0 in a first or last slice that only says whose embeddings, or final norm and head, the result has.
    base: model whose blocks act as the base's, with the first of them. inputs: name -> the first block.
    """

    blocks: int
    base: tuple[str, int]
    inputs: Mapping[str, int]


@dataclass(frozen=True)
class TokenRow:
    """The embedding row of a token in models that lack it: the row of another model's token, or zeros.

    model: None for zeros. token, id: None for the same token. force: also in models that have the token.
    """

    model: str | None = None
    token: str | None = None
    id: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """Construction of embeddings where vocabularies differ.

    multiple_of: the number of rows is rounded up to it, padded with the mean of all rows. missing: row of a token in a
    model that lacks it while several others have it: the base's row ("base", if it has one), the mean of all others'
    rows ("mean"), or the mean over those that are inputs ("inputs", zeros if none is), for methods that do not merge
    the base. A token that only one model has keeps that model's row. tokens: exceptions.
    """

    multiple_of: int | None = None
    missing: Literal["base", "mean", "inputs"] = "base"
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Recipe:
    """Base, ordered inputs and merge method.

    Attributes:
        base: The base model.
        inputs: The models to merge into it, in order.
        method: Name of the merge method.
        options: Its fixed options.
        dtype: Dtype of the result, "float32", "bfloat16" or "float16", or None for the base's.
        tokenizer: Source of the tokenizer: "base", an input's name, or "union" of all, where embedding rows are matched
            by token; None for the base's, where rows are matched by position.
        slices: Origin of the result's blocks; if empty, each comes from the same block of every model.
        vocabulary: Construction of embeddings where vocabularies differ.
        chat_template: Chat template (Jinja) of the result, instead of its tokenizer's own.
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
            raise RecipeError(f"Models need distinct names; they are {', '.join(names)}.")
        unfit = next((name for name in names if not is_name(name)), None)
        if unfit is not None:
            raise RecipeError(f"The name {unfit!a} contains unprintable characters; choose another.")
        if not self.inputs:
            raise RecipeError("A recipe needs at least one model to merge into the base.")
        if len(self.slices) > 1 and not any(part.blocks > 0 for part in self.slices):
            raise RecipeError(f"Slices need at least one block; these have {[part.blocks for part in self.slices]}.")
        ends = (0, len(self.slices) - 1) if len(self.slices) > 1 else ()
        for number, part in enumerate(self.slices):
            strangers = [name for name in (part.base[0], *part.inputs) if name not in names]
            least = 0 if number in ends else 1
            if strangers or part.blocks < least or not part.inputs:
                raise RecipeError(
                    f"A slice needs at least one block and at least one input of the recipe ({', '.join(names)}); "
                    f"this one has {part.blocks} block(s) of {', '.join(part.inputs) or 'no input'}."
                )

    def __repr__(self) -> str:
        return f"Recipe(method={self.method!r}, base={self.base.name!r}, inputs={[m.name for m in self.inputs]})"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the paths of all models, the base's first."""
        return tuple(path for model in (self.base, *self.inputs) for path in model.paths)

    @property
    def fingerprint(self) -> str:
        """Return a hash of the canonical JSON of the recipe: 16 hex digits."""
        text = json.dumps(_plain(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, repr=False)
class Merge:
    """A complete candidate, from which anyone can reproduce the same weights bit for bit."""

    recipe: Recipe
    table: CoefficientTable
    seed: int = 0

    def __repr__(self) -> str:
        return f"Merge({self.recipe}, {self.table}, seed={self.seed})"


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return the contents of a recipe; fields added to the format later appear only where they are used."""
    data = asdict(recipe)
    for model in (data["base"], *data["inputs"]):
        for key in ("adapter", "statistics", "adapter_revision"):
            if model[key] is None:
                del model[key]
    for key in ("slices", "vocabulary", "chat_template"):
        if not data[key]:
            del data[key]
    return data
