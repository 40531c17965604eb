"""Writing a merge to a folder that transformers loads: streamed, verified, complete or absent."""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge import plugins
from evomerge.merging.mergekit import write
from evomerge.merging.method import MergeMethod
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.compatibility import check_finite
from evomerge.merging.models.hashing import Digest, Hashing, digest_of
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import check_network
from evomerge.merging.output.assets import companions, write_chat_template, write_config
from evomerge.merging.output.card import model_card
from evomerge.merging.output.manifest import Manifest, make_manifest, pinned
from evomerge.merging.output.staging import MARK, check_output, staged
from evomerge.merging.output.writer import MAX_SHARD_BYTES, WriteError, check_weights, plan_tensors, write_weights
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.file import write_merge
from evomerge.text.printable import one_line

Progress = Callable[[int, int], None]


def materialize(
    merge: Merge,
    folder: Path,
    *,
    overwrite: bool = False,
    scores: Mapping[str, Any] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Manifest:
    """Merge on disk: read the models of the recipe, check them, and write the result to `folder`.

    scores: row -> column -> number or text, for card and manifest. progress: called with bytes written and bytes in
    total. Raises CheckpointError for invalid inputs, OutputError for the folder, WriteError for the
    weights; PluginError, MethodError, SpaceError or MergeError for an invalid merge.
    """
    sources = checked_sources(merge, folder, overwrite=overwrite)
    engine = sources.engine(dtype=output_dtype(merge.recipe), threads=threads)
    with Hashing(sources.statuses) as digest:
        check_finite({merge.recipe.base.name: sources.base, **sources.inputs})
        return write_folder(
            merge,
            sources,
            engine.stream(merge),
            folder,
            overwrite=overwrite,
            scores=scores,
            progress=progress,
            max_shard_bytes=max_shard_bytes,
            state=lambda: engine.state,
            digest=digest,
        )


def checked_sources(merge: Merge, folder: Path, *, overwrite: bool) -> RecipeModels:
    """Open the models of a merge that is written to `folder`, and check them without reading weights.

    Raises like `materialize`.
    """
    check_method(merge)  # a misspelled name is reported before any model is opened
    sources = open_models(merge.recipe, passing=True)
    check_output(folder, sources.models, overwrite=overwrite)
    sources.engine().check(merge)
    check_network(sources.base)
    return sources


def write_folder(
    merge: Merge,
    sources: RecipeModels,
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    *,
    overwrite: bool = False,
    scores: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    state: Callable[[], Mapping[str, Any] | None] = lambda: None,
    digest: Digest = digest_of,
) -> Manifest:
    """Write merged tensors (any order, every tensor of the base once) and all accompanying files.

    state: called after the last tensor for the manifest's `state`. digest: computes the hash of a file of the models.
    Raises like `materialize`.
    """
    check_output(folder, sources.models, overwrite=overwrite)
    recipe, base = pinned(merge.recipe), sources.base
    plan = plan_tensors(base, output_dtype(recipe))
    copies = companions(base.path, sources.tokenizer)
    nbytes = sum(t.nbytes for t in plan) + sum(source.stat().st_size for source in copies.values())
    with staged(folder, nbytes) as partial:
        sums = write_weights(partial, plan, tensors, max_shard_bytes=max_shard_bytes, progress=progress)
        write_config(base, partial, recipe.dtype)
        for name, source in copies.items():
            shutil.copyfile(source, partial / name)
        if recipe.chat_template is not None:
            write_chat_template(partial, recipe.chat_template)
        written = Checkpoint.open(partial, passing=True)
        with Hashing(written.files) as outputs:
            check_weights(written, plan, sums)
            check_network(written)
            manifest = make_manifest(replace(merge, recipe=recipe), sources, written.sha256(outputs), scores, digest)
        manifest = replace(manifest, state=state())
        _write_text(partial / MARK, json.dumps(asdict(manifest), indent=2, allow_nan=False))
        _write_recipes(replace(merge, recipe=recipe), base, partial, folder)
        _write_text(partial / "README.md", model_card(merge, folder.absolute().name, manifest, scores))
    return manifest


def output_dtype(recipe: Recipe) -> torch.dtype | None:
    """Return the dtype of merged tensors, or None if each keeps the base's."""
    if recipe.dtype is None:
        return None
    dtype = getattr(torch, recipe.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise WriteError(f"dtype must be float32, bfloat16 or float16; it is {recipe.dtype!r}.")
    return dtype


def check_method(merge: Merge) -> None:
    """Check a merge's options, coefficients and number of models against the method's declaration.

    Raises PluginError or MethodError.
    """
    method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
    for part in merge.recipe.slices or (merge.recipe,):
        method.check(merge.recipe.options, len(part.inputs))
    names = [model.name for model in merge.recipe.inputs]
    for row, group in enumerate(merge.table.groups):
        method.arguments({name: values[row] for name, values in merge.table.values.items()}, names, group)


def _mergeable(base: Model) -> list[str]:
    return [name for name in base.names if base.mergeable(name)]


def _write_recipes(merge: Merge, base: Model, partial: Path, folder: Path) -> None:
    """Write both recipes, with paths relative to `folder`."""
    recipe = partial / "recipe.yaml"
    write_merge(merge, recipe, folder)
    bound = Merge(merge.recipe, merge.table.bind(_mergeable(base)), merge.seed)
    try:
        text = write.dump(bound, folder, out_dtype=_main_dtype(base, merge.recipe))
    except write.InteropError as error:
        _write_text(
            recipe, f"# There is no mergekit_config.yml: {one_line(str(error))}\n{recipe.read_text(encoding='utf-8')}"
        )
        return
    _write_text(partial / "mergekit_config.yml", text)


def _main_dtype(base: Model, recipe: Recipe) -> str:
    if recipe.dtype is not None:
        return recipe.dtype
    largest = max(_mergeable(base), key=lambda name: math.prod(base.shape(name)))
    return str(base.dtype(largest)).removeprefix("torch.")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
