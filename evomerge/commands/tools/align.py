"""`evomerge tools align`: a model with its hidden units in the order of another's, as an ordinary checkpoint."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge import __version__
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.compatibility import check_compatible, check_finite
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import check_network
from evomerge.merging.output.assets import companions, write_config
from evomerge.merging.output.staging import MARK, check_output, staged
from evomerge.merging.output.writer import check_weights, plan_tensors, write_weights
from evomerge.merging.recipe_models import open_named
from evomerge.prepare.alignment.rebasin import match
from evomerge.prepare.alignment.symmetries import find_units
from evomerge.recipe.model_names import named_input, published


def align_model(
    model: str, to: str, output: Path, *, residual: bool = False, seed: int = 0, overwrite: bool = False
) -> dict[str, Any]:
    """Write `model` to the folder `output` with its hidden units matched to those of `to`; return the manifest.

    Raises CheckpointError for unsuitable models, AlignError for an architecture whose units are unknown, OutputError
    for the folder.
    """
    moving, target = open_named(model), open_named(to)
    check_output(output, [moving, target], overwrite=overwrite)
    check_compatible(target, {"the model": moving})
    check_finite({"the model": moving, "the target": target})
    shapes = {name: moving.shape(name) for name in moving.names if moving.mergeable(name)}
    units = find_units(shapes, moving.config, residual=residual)
    matching = match(moving, target, units, seed=seed)
    record = {
        "aligned": source_name(model),
        "to": source_name(to),
        "sha256": {"model": moving.sha256(), "to": target.sha256()},
        "seed": seed,
        "kinds": len(units),
        "units": sum(one.count for one in units),
        "moved": matching.moved,
        "sweeps": len(matching.agreement) - 1,
        "agreement": [matching.agreement[0], matching.agreement[-1]],
        "cosine": list(matching.cosine),
        "evomerge": __version__,
    }
    write_changed(moving, matching.tensors, output, record)
    return record


def source_name(text: str) -> str:
    """Return the name to publish for a model given on the command line, see `published`."""
    return published(named_input("model", text))


def write_changed(model: Model, changed: Mapping[str, Tensor], output: Path, record: Mapping[str, Any]) -> None:
    """Write a model with some tensors replaced by others of the same shapes and types, and `record` as its manifest."""
    plan = plan_tensors(model, None)
    copies = companions(model.path, model.path)
    nbytes = sum(tensor.nbytes for tensor in plan) + sum(source.stat().st_size for source in copies.values())
    with staged(output, nbytes) as partial:
        tensors = ((name, changed.get(name, model.tensor(name))) for name in model.names)
        sums = write_weights(partial, plan, tensors)
        write_config(model, partial, None)
        for name, source in copies.items():
            shutil.copyfile(source, partial / name)
        written = Checkpoint.open(partial)
        check_weights(written, plan, sums)
        check_network(written)
        (partial / MARK).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
