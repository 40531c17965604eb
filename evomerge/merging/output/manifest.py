"""The manifest of an export: its input and output files, with their fingerprints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge import __version__
from evomerge.merging.models.checkpoint import locate
from evomerge.merging.models.hashing import Digest, digest_of
from evomerge.merging.recipe_models import RecipeModels
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe.model_names import cached_by_name


@dataclass(frozen=True)
class Manifest:
    """The contents of `evomerge.json`: enough to verify every input and output file.

    inputs: model name (the base first) -> its source, revision and {file: sha256}; outputs: file -> sha256.
    state: for a method that can continue from here, the options to continue with; else None.
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
        """Return the origin of each model, the base first; for an adapter on a model, `MODEL + ADAPTER`."""
        return {
            name: " + ".join(entry[key] for key in ("source", "adapter") if key in entry)
            for name, entry in self.inputs.items()
        }

    @property
    def hub_names(self) -> tuple[str, ...]:
        """Return the hub repositories among the models and adapters, the base's first."""
        pairs = (("source", "revision"), ("adapter", "adapter_revision"))
        named = (entry[key] for entry in self.inputs.values() for key, revision in pairs if entry.get(revision))
        return tuple(dict.fromkeys(named))


def pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the commit of every model from a hub, so that it refers to the same model forever."""

    def of(given: Input) -> Input:
        model = cached_by_name(given)
        if model.revision is not None or not Path(model.path).exists():
            model = replace(model, revision=_commit(model.path, model.revision))
        if model.adapter is not None and model.adapter_revision is not None:
            model = replace(model, adapter_revision=_commit(model.adapter, model.adapter_revision))
        return model

    return replace(recipe, base=of(recipe.base), inputs=tuple(map(of, recipe.inputs)))


def _commit(name: str, revision: str | None) -> str:
    # A model in another download cache than the configured one has the commit in its path.
    known = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
    return revision if revision is not None and known else locate(name, revision).name


def make_manifest(
    merge: Merge,
    sources: RecipeModels,
    outputs: Mapping[str, str],
    scores: Mapping[str, Any] | None,
    digest: Digest = digest_of,
) -> Manifest:
    """Return the manifest of a merge. outputs: file -> SHA-256; digest: computes that of a file of the models.

    Raises CheckpointError if an input changed since it was opened.
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
                "sha256": models[model.name].sha256(digest),
            }
            for model in (recipe.base, *recipe.inputs)
        },
        outputs=outputs,
        scores=scores,
    )


def _source(path: str) -> str:
    """Return the publishable part of a model's path: a hub name unchanged, only the last part of a local path."""
    local = Path(path)
    return local.resolve().name if local.exists() else path
