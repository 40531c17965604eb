"""The manifest of an export: which files went in and came out, with what they can be recognised by."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge import __version__
from evomerge.merging.models.checkpoint import Checkpoint, locate
from evomerge.merging.recipe_models import RecipeModels
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe.model_names import cached_by_name


@dataclass(frozen=True)
class Manifest:
    """What `evomerge.json` records of an export: enough to check every file that went in and came out.

    inputs: model name (the base first) -> its source, revision and {file: sha256}; outputs: file -> sha256.
    state: of a method that can go on from here, the options with which it does; else None.
    """

    recipe: str
    seed: int
    versions: Mapping[str, str]
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, str]
    scores: Mapping[str, Any] | None = None
    state: Mapping[str, Any] | None = None

    @property
    def origins(self) -> dict[str, str]:
        """Where each model comes from, the base first; of an adapter on a model `MODEL + ADAPTER`."""
        return {
            name: " + ".join(entry[key] for key in ("source", "adapter") if key in entry)
            for name, entry in self.inputs.items()
        }

    @property
    def hub_names(self) -> tuple[str, ...]:
        """The repositories of the hub among the models and adapters, the base's first."""
        pairs = (("source", "revision"), ("adapter", "adapter_revision"))
        named = (entry[key] for entry in self.inputs.values() for key, revision in pairs if entry.get(revision))
        return tuple(dict.fromkeys(named))


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with the commit of every model that came from a hub, so that it stays the same model."""

    def of(given: Input) -> Input:
        model = cached_by_name(given)
        if model.revision is not None or not Path(model.path).exists():
            model = replace(model, revision=_commit(model.path, model.revision))
        if model.adapter is not None and model.adapter_revision is not None:
            model = replace(model, adapter_revision=_commit(model.adapter, model.adapter_revision))
        return model

    return replace(recipe, base=of(recipe.base), inputs=tuple(map(of, recipe.inputs)))


def _commit(name: str, revision: str | None) -> str:
    # A model in a download cache that is not the configured one keeps the commit in its path.
    known = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
    return revision if revision is not None and known else locate(name, revision).name


def make_manifest(
    merge: Merge, sources: RecipeModels, written: Checkpoint, scores: Mapping[str, Any] | None
) -> Manifest:
    """The manifest of what was `written`; reads all files.

    Raises CheckpointError where an input changed since it was opened.
    """
    sources.check_unchanged()
    recipe = merge.recipe
    models = {recipe.base.name: sources.base, **sources.inputs}
    return Manifest(
        recipe=recipe.fingerprint,
        seed=merge.seed,
        versions={"evomerge": __version__, "torch": torch.__version__, "numpy": np.__version__},
        inputs={
            model.name: {
                "source": _source(model.path),
                **({"adapter": _source(model.adapter)} if model.adapter else {}),
                "revision": model.revision,
                **({"adapter_revision": model.adapter_revision} if model.adapter_revision else {}),
                "sha256": models[model.name].sha256(),
            }
            for model in (recipe.base, *recipe.inputs)
        },
        outputs=written.sha256(),
        scores=scores,
    )


def _source(path: str) -> str:
    """What may be published of a model's path: a hub name as it is, of a local path the last part only."""
    local = Path(path)
    return local.resolve().name if local.exists() else path
