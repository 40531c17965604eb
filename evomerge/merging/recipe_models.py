"""The models of a recipe, opened: folders, adapters on them, vocabularies matched, blocks put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evomerge.merging.engine import MergeEngine
from evomerge.merging.models.adapter import Adapted, is_adapter
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError, locate
from evomerge.merging.models.compatibility import check_compatible, check_names
from evomerge.merging.models.model import Model
from evomerge.merging.models.mosaic import assemble
from evomerge.merging.models.vocabulary import Tokens, align
from evomerge.merging.moments import MomentsFile
from evomerge.recipe import Input, Recipe, Vocabulary
from evomerge.recipe.model_names import named_input


@dataclass(frozen=True)
class RecipeModels:
    """Base and inputs as they take part in a merge, by name; statistics of those that bring some.

    tokenizer: the folder whose tokenizer the result gets, which lasts as long as this object. statuses: size, time and
    inode of every file of weights when it was opened.
    """

    base: Model
    inputs: Mapping[str, Model]
    moments: Mapping[str, MomentsFile]
    tokens: Tokens
    statuses: Mapping[Path, tuple[int, ...]]

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer's files."""
        return self.tokens.folder

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of them before they are merged."""
        return notes_on(self.moments)

    @property
    def models(self) -> tuple[Model, ...]:
        """The base, then every input."""
        return (self.base, *self.inputs.values())

    def check_unchanged(self) -> None:
        """Raises CheckpointError where a file of weights was written to or replaced since it was opened.

        A mapped file that is cut short within its last page is read as zeros, which no reader notices.
        """
        for file, before in self.statuses.items():
            if _status(file) != before:
                raise CheckpointError(
                    f"{file} changed while it was being merged; nothing was written. Merge again when it is complete."
                )

    def engine(
        self, *, dtype: torch.dtype | None = None, device: str = "cpu", threads: int = 1, keep: int = 0
    ) -> MergeEngine:
        """The engine that merges them. keep: bytes of folded adapters that it may hold on to."""
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


def open_models(recipe: Recipe, *, passing: bool = False) -> RecipeModels:
    """Open every model of a recipe; reads headers and configurations, no weights.

    Raises CheckpointError, first of all for models that do not have the same tensors, whoever asks.

    passing: the weights are read once, see `Checkpoint.open`.
    """
    models = open_folders(recipe.base, recipe.inputs, passing=passing)
    moments = open_moments(recipe.inputs)
    for model in recipe.inputs:
        if model.name in moments:
            _check_owner(moments[model.name], model, models[model.name])
    inputs = {model.name: models[model.name] for model in recipe.inputs}
    check_names(models[recipe.base.name], inputs, sliced=bool(recipe.slices))
    tokens = Tokens(models[recipe.base.name].path)
    if recipe.tokenizer is not None:
        before = models
        models, tokens = align(models, recipe.base.name, recipe.tokenizer, recipe.vocabulary or Vocabulary())
        if any(models[name] is not model for name, model in before.items()):
            _refuse_statistics("rows of embeddings matched by token", moments, "fisher")
    if recipe.slices:
        _refuse_statistics("blocks in other places (slices)", moments, "")
        models = assemble(recipe, models)
    whole = models.pop(recipe.base.name)
    check_compatible(whole, models, partial=bool(recipe.slices))
    statuses = {file: _status(file) for model in (whole, *models.values()) for file in model.files}
    return RecipeModels(whole, models, moments, tokens, statuses)


def _status(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:  # gone
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


def open_moments(inputs: Sequence[Input]) -> dict[str, MomentsFile]:
    """The statistics of those inputs that bring some, by name. Raises CheckpointError."""
    return {model.name: MomentsFile(Path(model.statistics)) for model in inputs if model.statistics}


def notes_on(moments: Mapping[str, MomentsFile]) -> tuple[str, ...]:
    """What should be known of statistics before they are merged with."""
    unknown = [f"{name} ({found.path})" for name, found in moments.items() if found.model is None]
    said = f"the statistics of {', '.join(unknown)} do not say which model they are of, and are taken as they are"
    return (said,) if unknown else ()


def _check_owner(moments: MomentsFile, wanted: Input, model: Model) -> None:
    """Refuse statistics of another model than the input that they are given for."""
    if moments.model is None or moments.model == model.fingerprint():
        return
    revision = f"@{wanted.adapter_revision}" if wanted.adapter_revision else ""
    adapter = f" --adapter {wanted.adapter}{revision}" if wanted.adapter else ""
    raise CheckpointError(
        f"The statistics {moments.path} were collected on another model than {wanted.name!r} "
        f"({wanted.path}): on {moments.source or 'one'} with the fingerprint {moments.model}, here it is "
        f"{model.fingerprint()}. Name the statistics of this model, or collect them: "
        f"`evomerge tools calibrate {wanted.path}{adapter} --data FILE -o {moments.path} --overwrite`."
    )


def _refuse_statistics(why: str, moments: Mapping[str, MomentsFile], kind: str) -> None:
    """Refuse statistics that name tensors, or rows of them, as they are in an input's own files."""
    name = next((name for name, found in moments.items() if not kind or kind in found.kinds), None)
    if name is not None:
        raise CheckpointError(
            f"The statistics of {name!r} ({moments[name].path}) are of the model as it is in its files; the recipe "
            f"merges {why}: leave the statistics out, or merge the models as they are."
        )


def open_named(text: str) -> Model:
    """The model that a command line names, see `named_input`. Raises CheckpointError."""
    return open_folders(named_input("model", text), ())["model"]


def adapter_of(model: Input) -> Path:
    """The folder of a model's adapter, downloaded first where it is one of the hub. Raises CheckpointError."""
    return locate(model.adapter or "", model.adapter_revision)


def open_folders(base: Input, inputs: Sequence[Input], *, passing: bool = False) -> dict[str, Model]:
    """The models by name, the base first: folders and files as they are, adapters on their models.

    An input that is nothing but an adapter is put on the base. A model that several name is one object, so that
    it shows that their adapters are on the same one. Raises CheckpointError.
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
            raise CheckpointError(f"{model.name}: {model.path} is an adapter (LoRA); an adapter goes on a whole model.")
    return models
