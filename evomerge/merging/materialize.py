"""From a merge to a folder that transformers loads: streamed, verified, complete or not there at all."""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge import __version__, plugins
from evomerge.merging.assets import companions, write_chat_template, write_config
from evomerge.merging.card import model_card
from evomerge.merging.checkpoint import Checkpoint, CheckpointError, locate
from evomerge.merging.compatibility import check_compatible, find_nonfinite
from evomerge.merging.header import shown
from evomerge.merging.interop import mergekit
from evomerge.merging.method import MergeMethod
from evomerge.merging.model import Model
from evomerge.merging.sources import Sources, open_models
from evomerge.merging.staging import MARK, check_output, staged
from evomerge.merging.writer import MAX_SHARD_BYTES, WriteError, check_weights, plan_tensors, write_weights
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe_file import write_merge

Progress = Callable[[int, int], None]


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


def materialize(
    merge: Merge,
    folder: Path,
    *,
    overwrite: bool = False,
    scores: Mapping[str, Any] | None = None,
    device: str = "cpu",
    threads: int = 1,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Manifest:
    """Merge on disk: read the models of the recipe, check them, and write the result to `folder`.

    scores: row -> column -> number or text, for card and manifest. progress: bytes written, bytes in all.
    Raises CheckpointError for inputs that are refused, OutputError for the folder, WriteError for the
    weights; PluginError, MethodError, SpaceError or MergeError for a merge that cannot be made.
    """
    sources = open_models(merge.recipe, passing=True)
    check_output(folder, sources.models, overwrite=overwrite)
    _check_method(merge, sources.base)
    check_compatible(sources.base, sources.inputs, partial=bool(merge.recipe.slices))
    for name, model in {merge.recipe.base.name: sources.base, **sources.inputs}.items():
        _check_finite(name, model)
    engine = sources.engine(dtype=output_dtype(merge.recipe), device=device, threads=threads)
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
    )


def write_folder(
    merge: Merge,
    sources: Sources,
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    *,
    overwrite: bool = False,
    scores: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    state: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> Manifest:
    """Write merged tensors (any order, every tensor of the base once) and all that belongs to them.

    state: asked after the last tensor for what the manifest records under that name.
    Raises as `materialize` does.
    """
    check_output(folder, sources.models, overwrite=overwrite)
    recipe, base = _pinned(merge.recipe), sources.base
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
        check_weights(written, plan, sums)
        manifest = replace(_manifest(replace(merge, recipe=recipe), sources, written, scores), state=state())
        _write_text(partial / MARK, json.dumps(asdict(manifest), indent=2, allow_nan=False))
        _write_recipes(replace(merge, recipe=recipe), base, partial)
        origins = {
            name: " + ".join(entry[key] for key in ("source", "adapter") if key in entry)
            for name, entry in manifest.inputs.items()
        }
        _write_text(partial / "README.md", model_card(merge, folder.absolute().name, origins, scores))
    return manifest


def output_dtype(recipe: Recipe) -> torch.dtype | None:
    """The type of merged tensors, or None where each keeps the base's."""
    if recipe.dtype is None:
        return None
    dtype = getattr(torch, recipe.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise WriteError(f"dtype must be float32, bfloat16 or float16; it is {recipe.dtype!r}.")
    return dtype


def _check_method(merge: Merge, base: Model) -> None:
    method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
    for part in merge.recipe.slices or (merge.recipe,):
        method.check(merge.recipe.options, len(part.inputs))
    merge.table.bind(_mergeable(base))


def _mergeable(base: Model) -> list[str]:
    return [name for name in base.names if base.mergeable(name)]


def _check_finite(name: str, model: Model) -> None:
    found = find_nonfinite(model)
    if found is not None:
        tensor, count = found
        raise CheckpointError(f"{name} ({model.path}) has {count} values that are not finite in {shown(tensor)}.")


def _pinned(recipe: Recipe) -> Recipe:
    """The recipe with the commit of every model that came from a hub, so that it stays the same model."""

    def pinned(model: Input) -> Input:
        if Path(model.path).exists():
            return model
        return replace(model, revision=locate(model.path, model.revision).name)

    return replace(recipe, base=pinned(recipe.base), inputs=tuple(map(pinned, recipe.inputs)))


def _manifest(merge: Merge, sources: Sources, written: Checkpoint, scores: Mapping[str, Any] | None) -> Manifest:
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


def _write_recipes(merge: Merge, base: Model, folder: Path) -> None:
    write_merge(merge, folder / "recipe.yaml")
    bound = Merge(merge.recipe, merge.table.bind(_mergeable(base)), merge.seed)
    try:
        text = mergekit.dump(bound, out_dtype=_main_dtype(base, merge.recipe))
    except mergekit.InteropError:
        return
    _write_text(folder / "mergekit_config.yml", text)


def _main_dtype(base: Model, recipe: Recipe) -> str:
    if recipe.dtype is not None:
        return recipe.dtype
    largest = max(_mergeable(base), key=lambda name: math.prod(base.shape(name)))
    return str(base.dtype(largest)).removeprefix("torch.")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
