"""`evomerge tools repair`: a merged model with the statistics of its endpoints' hidden units restored."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from evomerge import __version__
from evomerge.commands.init import named_inputs
from evomerge.commands.progress import counted, progress_bar
from evomerge.commands.tools.align import source_name, write_changed
from evomerge.commands.tools.calibrate import Reading, amounts, check_continues_text, load
from evomerge.merging.models.compatibility import check_compatible, check_finite, tokenizer_differences
from evomerge.merging.models.model import Model
from evomerge.merging.output.staging import check_output
from evomerge.merging.recipe_models import open_folders, open_named
from evomerge.prepare.alignment.repair import goal
from evomerge.prepare.calibration import hidden_units
from evomerge.prepare.calibration.data import CollectionError, batches, read_texts
from evomerge.prepare.calibration.hidden_units import Repaired, Statistics
from evomerge.resident.resident import ResidentModel


def repair_model(
    merged: str,
    models: Sequence[str],
    data: Path,
    output: Path,
    reading: Reading,
    *,
    weights: Sequence[float] | None = None,
    scale_only: bool = False,
    batch_tokens: int = 4096,
    overwrite: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Write `merged` to the folder `output` with the statistics of `models`; return data and lines to print.

    weights: of the models, divided by their sum; equal ones by default. scale_only: standard deviations only (RESCALE).
    Raises CollectionError or EvaluatorError for weights and data, CheckpointError or ModelError for unsuitable models,
    OutputError for the folder; where possible before the first forward pass.
    """
    shares = shares_of(models, weights)
    texts = read_texts(data, reading.separator)
    checkpoint = open_named(merged)
    endpoints = {model.name: open_folders(model, ())[model.name] for model in named_inputs(models)}
    check_output(output, [checkpoint, *endpoints.values()], overwrite=overwrite)
    _check_models(checkpoint, endpoints)
    model = load(checkpoint, checkpoint.path, reading.dtype or "float32", reading.device)
    examples = reading.encode(texts, model)
    hidden_units.check_data(model, checkpoint, examples)
    parts = list(batches(examples, batch_tokens))
    with progress_bar(f"{len(examples)} examples, {len(models)} models") as progress:
        step = counted(progress, (len(models) + 3) * sum(example.length for example in examples))
        found = []
        for endpoint in endpoints.values():
            _become(model, endpoint)
            found.append(hidden_units.observe(model, checkpoint, parts, step))
        _become(model, checkpoint)
        wanted = {name: goal([one[name] for one in found], shares) for name in found[0]}
        done = hidden_units.repair_blocks(model, checkpoint, wanted, parts, step, scale_only=scale_only)
    record = {
        "repaired": source_name(merged),
        "models": dict(zip(map(source_name, models), shares, strict=True)),
        "sha256": {"merged": checkpoint.sha256(), **{name: one.sha256() for name, one in endpoints.items()}},
        **amounts(examples),
        **_result(checkpoint, done, wanted, scale_only=scale_only),
        "notes": tokenizer_differences(checkpoint, endpoints),
        "evomerge": __version__,
    }
    write_changed(checkpoint, done.tensors, output, record)
    return record, [*_lines(record, scale_only=scale_only), f"Wrote {output}"]


def shares_of(models: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    """Return the models' weights, scaled to sum 1. Raises CollectionError if they do not fit the models."""
    if len(models) < 2:
        raise CollectionError(f"A merge has at least two endpoints; got {len(models)}: {', '.join(models)}.")
    given = [1.0] * len(models) if weights is None else list(weights)
    total = sum(given)
    if len(given) != len(models) or not isfinite(total) or min(given) < 0 or total == 0:
        raise CollectionError(
            f"The weights are {', '.join(map(str, given))}; expected one for each of {len(models)} models, not "
            "negative, not all zero."
        )
    return [weight / total for weight in given]


def _check_models(checkpoint: Model, endpoints: Mapping[str, Model]) -> None:
    check_compatible(checkpoint, endpoints)
    check_continues_text(checkpoint, checkpoint.path)
    check_finite({"the merged model": checkpoint, **endpoints})


def _become(model: ResidentModel, checkpoint: Model) -> None:
    """Load the learned weights of another model of the same shapes; the configuration stays."""
    for name, tensor in model.tensors.items():
        if name in checkpoint.names and checkpoint.mergeable(name):
            tensor.copy_(checkpoint.tensor(name))
    model.settle()


def _result(checkpoint: Model, done: Repaired, wanted: Statistics, *, scale_only: bool) -> dict[str, Any]:
    """Return mean absolute errors of the channels' statistics; "scale" is the mean standard deviation of the goal."""
    sizes = {name: len(one.std) for name, one in wanted.items()}
    names = set(checkpoint.names)
    moved = [name for name in wanted if not scale_only and hidden_units.bias_name(name) in names]
    before, after = (hidden_units.deviations(one, wanted) for one in (done.before, done.after))
    return {
        "layers": len(sizes),
        "channels": sum(sizes.values()),
        "channels_with_means": sum(sizes[name] for name in moved),
        "scale": float(sum(one.std.sum() for one in wanted.values())) / sum(sizes.values()),
        "means_off": [before[0], after[0]],
        "deviations_off": [before[1], after[1]],
    }


def _lines(record: Mapping[str, Any], *, scale_only: bool) -> list[str]:
    channels, moved = record["channels"], record["channels_with_means"]
    (mean, mean_after), (std, std_after) = record["means_off"], record["deviations_off"]
    lines = [f"note: {note}" for note in record["notes"]]
    if moved < channels and not scale_only:
        lines.append(
            f"note: {channels - moved} of {channels} channels belong to layers without a bias: only their standard "
            "deviations are corrected (RESCALE), not their means."
        )
    lines.append(
        f"{channels} channels of {record['layers']} layers, with standard deviations of {record['scale']:.4g} in the "
        f"endpoints, over {record['tokens']} tokens. On average they were off by:"
    )
    lines.append(f"  standard deviation {std:.4g} -> {std_after:.4g}")
    lines.append(f"  mean {mean:.4g} -> {mean_after:.4g}")
    return lines
