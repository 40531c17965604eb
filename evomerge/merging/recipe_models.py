"""Opened models of a recipe: folders, adapters, matched vocabularies, rearranged blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from evomerge.merging.engine import MergeEngine
from evomerge.merging.models.adapter import Adapted, is_adapter
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError, locate
from evomerge.merging.models.compatibility import check_blocks, check_compatible, check_names
from evomerge.merging.models.model import Model
from evomerge.merging.models.mosaic import assemble
from evomerge.merging.models.own_heads import WithHeadApart, heads_apart, notes_on_heads
from evomerge.merging.models.vocabulary import Tokens, align
from evomerge.merging.moments import MomentsFile
from evomerge.recipe import Input, Recipe, Vocabulary
from evomerge.recipe.model_names import named_input


@dataclass(frozen=True)
class RecipeModels:
    """Base and inputs as merged, by name, with the statistics of those that have some.

    tokenizer: folder of the result's tokenizer, which lasts as long as this object. statuses: size, time and
    inode of every weight file when it was opened. heads: by input, the tensors of a classification head with another
    number of labels than the base's, which is not merged.
    """

    base: Model
    inputs: Mapping[str, Model]
    moments: Mapping[str, MomentsFile]
    tokens: Tokens
    statuses: Mapping[Path, tuple[int, ...]]
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer's files."""
        return self.tokens.folder

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the models."""
        return (*notes_on(self.moments), *notes_on_heads(self.heads))

    @property
    def models(self) -> tuple[Model, ...]:
        """The base, then every input."""
        return (self.base, *self.inputs.values())

    def by_name(self, recipe: Recipe) -> dict[str, Model]:
        """Return the models by their names in the recipe, the base first."""
        return {recipe.base.name: self.base, **self.inputs}

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a weight file was written or replaced since it was opened.

        A mapped file that is truncated within its last page reads as zeros, which no reader notices.
        """
        for file, before in self.statuses.items():
            if _status(file) != before:
                raise CheckpointError(
                    f"{file} changed while it was being merged; nothing was written. Merge again when it is complete."
                )

    def engine(
        self, *, dtype: torch.dtype | None = None, device: str = "cpu", threads: int = 1, keep: int = 0
    ) -> MergeEngine:
        """Return the engine that merges them. keep: bytes of folded adapters that it may cache."""
        return MergeEngine(
            self.base,
            tuple(self.inputs.values()),
            names=tuple(self.inputs),
            dtype=dtype,
            device=device,
            threads=threads,
            keep=keep,
            moments=[None, *(self.moments.get(name) for name in self.inputs)] if self.moments else (),
        )


def open_models(recipe: Recipe, *, passing: bool = False, apart: bool = False) -> RecipeModels:
    """Open every model of a recipe; reads headers and configurations, no weights.

    Raises CheckpointError, in particular for models that do not have the same tensors.

    passing: whether the weights are read once, see `Checkpoint.open`. apart: whether their blocks are arranged in other
    orders instead of merged, so that they may differ in depth.
    """
    models = open_folders(recipe.base, recipe.inputs, passing=passing)
    moments = open_moments(recipe.inputs)
    for model in recipe.inputs:
        if model.name in moments:
            _check_owner(moments[model.name], model, models[model.name])
    inputs = {model.name: models[model.name] for model in recipe.inputs}
    check_names(models[recipe.base.name], inputs, sliced=apart or bool(recipe.slices))
    tokens = Tokens(models[recipe.base.name].path)
    if recipe.tokenizer is not None:
        before = models
        models, tokens = align(models, recipe.base.name, recipe.tokenizer, recipe.vocabulary or Vocabulary())
        if any(models[name] is not model for name, model in before.items()):
            for kind in ("fisher", "mask"):
                _refuse_statistics("rows of embeddings matched by token", moments, kind)
    if recipe.slices:
        _refuse_statistics("blocks in other places (slices)", moments, "")
        models = assemble(recipe, models)
    whole = models.pop(recipe.base.name)
    heads = {} if apart or recipe.slices else heads_apart(whole, models)
    if heads:
        whole = WithHeadApart(whole, tuple(name for names in heads.values() for name in names))
    if apart:
        check_blocks(whole, models)
    else:
        check_compatible(whole, models, partial=bool(recipe.slices))
    statuses = {file: _status(file) for model in (whole, *models.values()) for file in model.files}
    return RecipeModels(whole, models, moments, tokens, statuses, heads)


def _status(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:  # gone
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


def open_moments(inputs: Sequence[Input]) -> dict[str, MomentsFile]:
    """Return the statistics of the inputs that have some, by name. Raises CheckpointError."""
    return {model.name: MomentsFile(Path(model.statistics)) for model in inputs if model.statistics}


def notes_on(moments: Mapping[str, MomentsFile]) -> tuple[str, ...]:
    """Return warnings about statistics."""
    unknown = [f"{name} ({found.path})" for name, found in moments.items() if found.model is None]
    said = f"the statistics of {', '.join(unknown)} do not name their model, which is therefore not checked"
    return (said,) if unknown else ()


def _check_owner(moments: MomentsFile, wanted: Input, model: Model) -> None:
    """Raise CheckpointError for statistics of another model than the input they are given for."""
    if moments.model is None or moments.model == model.fingerprint():
        return
    revision = f"@{wanted.adapter_revision}" if wanted.adapter_revision else ""
    adapter = f" --adapter {wanted.adapter}{revision}" if wanted.adapter else ""
    raise CheckpointError(
        f"The statistics {moments.path} were collected on another model than {wanted.name!r} "
        f"({wanted.path}): on {moments.source or 'one'} with the fingerprint {moments.model}, here it is "
        f"{model.fingerprint()}. Name the statistics of this model, or collect them (masks: `evomerge tools mask`): "
        f"`evomerge tools calibrate {wanted.path}{adapter} --data FILE -o {moments.path} --overwrite`."
    )


def _refuse_statistics(why: str, moments: Mapping[str, MomentsFile], kind: str) -> None:
    """Raise CheckpointError for statistics of tensors, or rows of them, that differ from an input's own files."""
    name = next((name for name, found in moments.items() if not kind or kind in found.kinds), None)
    if name is not None:
        raise CheckpointError(
            f"The statistics of {name!r} ({moments[name].path}) describe the model as stored in its files; the recipe "
            f"merges {why}: remove the statistics, or merge the models unchanged."
        )


def open_named(text: str) -> Model:
    """Return the model named on a command line, see `named_input`. Raises CheckpointError."""
    return open_folders(named_input("model", text), ())["model"]


def adapter_of(model: Input) -> Path:
    """Return the folder of a model's adapter, downloading it from the hub if needed. Raises CheckpointError."""
    return locate(model.adapter or "", model.adapter_revision)


def open_folders(base: Input, inputs: Sequence[Input], *, passing: bool = False) -> dict[str, Model]:
    """Open the models by name, the base first: folders and files as they are, adapters on their models.

    An input that is only an adapter is applied to the base. A model named several times is a single object, which
    shows that their adapters share it. Raises CheckpointError.
    """
    whole: dict[Path, Model] = {}

    def opened(place: Path) -> Model:
        key = place.resolve()
        if key not in whole:
            whole[key] = Checkpoint.open(place, passing=passing)
        return whole[key]

    place = locate(base.path, base.revision)
    if is_adapter(place):
        raise CheckpointError(f"{base.path} is an adapter (LoRA): name the model that it was trained on as the base.")
    below = opened(place) if base.adapter is None else Adapted(opened(place), adapter_of(base), rounded=True)
    models = {base.name: below}
    for model in inputs:
        place = locate(model.path, model.revision)
        if not is_adapter(place):
            on = opened(place)
            models[model.name] = on if model.adapter is None else Adapted(on, adapter_of(model))
        elif model.adapter is None:
            models[model.name] = Adapted(below, place)
        else:
            raise CheckpointError(f"{model.name}: {model.path} is an adapter (LoRA); expected a whole model under it.")
    return models
