"""The models of a recipe, opened: folders, adapters on them, vocabularies matched, blocks put together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from evomerge.merging.checkpoint import Checkpoint
from evomerge.merging.engine import MergeEngine
from evomerge.merging.model import Model
from evomerge.merging.moments import MomentsFile
from evomerge.merging.mosaic import assemble
from evomerge.merging.vocabulary import Tokens, align
from evomerge.recipe import Recipe, Vocabulary


@dataclass(frozen=True)
class Sources:
    """Base and inputs as they take part in a merge, by name; statistics of those that bring some.

    tokenizer: the folder whose tokenizer the result gets, which lasts as long as this object.
    """

    base: Model
    inputs: Mapping[str, Model]
    moments: Mapping[str, MomentsFile]
    tokens: Tokens

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer's files."""
        return self.tokens.folder

    @property
    def models(self) -> tuple[Model, ...]:
        """The base, then every input."""
        return (self.base, *self.inputs.values())

    def engine(self, *, dtype: torch.dtype | None = None, device: str = "cpu", threads: int = 1) -> MergeEngine:
        """The engine that merges them."""
        return MergeEngine(
            self.base,
            tuple(self.inputs.values()),
            names=tuple(self.inputs),
            dtype=dtype,
            device=device,
            threads=threads,
            moments=[None, *(self.moments.get(name) for name in self.inputs)] if self.moments else (),
        )


def open_models(recipe: Recipe) -> Sources:
    """Open every model of a recipe; reads headers and configurations, no weights. Raises CheckpointError."""
    everything = (recipe.base, *recipe.inputs)
    models: dict[str, Model] = {model.name: Checkpoint.open(model.path, model.revision) for model in everything}
    moments = {model.name: MomentsFile(Path(model.statistics)) for model in recipe.inputs if model.statistics}
    tokens = Tokens(models[recipe.base.name].path)
    if recipe.tokenizer is not None:
        models, tokens = align(models, recipe.base.name, recipe.tokenizer, recipe.vocabulary or Vocabulary())
    if recipe.slices:
        models = assemble(recipe, models)
    base = models.pop(recipe.base.name)
    return Sources(base, models, moments, tokens)
