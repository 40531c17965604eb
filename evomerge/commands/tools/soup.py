"""`evomerge tools soup`: a recipe with learned mixing weights, and its loss on held-out data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluators.base import content_ids, split_of
from evomerge.commands.init import named_inputs
from evomerge.commands.progress import counted, progress_bar
from evomerge.commands.tools.calibrate import Reading, check_continues_text
from evomerge.merging.models.compatibility import tokenizer_differences
from evomerge.merging.output.manifest import pinned
from evomerge.merging.output.single_file import RECIPE, check_file
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.prepare.calibration.collect import check_memory
from evomerge.prepare.calibration.data import Example, read_texts
from evomerge.prepare.soup import Learned, Progress, Settings, Soup, SoupError, learn
from evomerge.recipe import Recipe
from evomerge.recipe.file import write_merge
from evomerge.recipe.model_names import named_input
from evomerge.resident.resident import ResidentModel, choose_device, load_resident
from evomerge.statistics import difference
from search_spaces.base import CoefficientTable, FloatArray

#: Share of the examples to learn from; the others are held out.
_TRAINING_SHARE = 0.5
#: Cost of a forward and backward pass, in forward passes.
_STEP_COST = 3


@dataclass(frozen=True)
class _Parts:
    """Training and held-out examples, without common content."""

    training: list[Example]
    held_out: list[Example]


@dataclass(frozen=True)
class _Losses:
    """Losses of every held-out example, in the same order."""

    soup: FloatArray
    uniform: FloatArray
    models: Mapping[str, FloatArray]


def learn_soup(
    base: str,
    models: Sequence[str],
    data: Path,
    output: Path,
    settings: Settings,
    reading: Reading,
    *,
    tokenizer: str | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Learn the weights of `models` on one half of the data, write the recipe, and score it on the other half.

    base: gives configuration, tokenizer and unmerged tensors. settings: its temperature is ignored; outputs get one if
    all examples are prompts with answers. Returns data and lines to print. Raises SoupError, EvaluatorError or
    CollectionError for settings and data, CheckpointError or ModelError for the models, OutputError for the output;
    where possible before the first step.
    """
    check_file(output, ours=RECIPE, overwrite=overwrite, inputs=[Path(base), *map(Path, models), data])
    if len(models) < 2:
        raise SoupError(f"A soup needs at least two models; got {len(models)}: {', '.join(models)}.")
    texts = read_texts(data, reading.separator)
    inputs = named_inputs(models)
    vocabularies = ("base", "union", *(model.name for model in inputs))
    if tokenizer not in (None, *vocabularies):
        raise SoupError(f"The tokenizer is {tokenizer!r}; expected {', '.join(vocabularies)}.")
    recipe = Recipe(named_input("base", base), inputs, "linear", tokenizer=tokenizer)
    sources = open_models(recipe)
    check_continues_text(sources.base, sources.tokenizer)
    notes = [] if tokenizer else tokenizer_differences(sources.base, sources.inputs)
    resident, soup = _load(recipe, sources, reading, settings)
    parts = split_examples(reading.encode(texts, resident))
    answers = all(text.given for text in texts)
    settings = replace(settings, temperature=answers)
    with progress_bar(f"{len(parts.training)} examples, {len(inputs)} models") as progress:
        learning = _STEP_COST * settings.epochs * sum(example.length for example in parts.training)
        step = counted(progress, learning + (len(inputs) + 2) * sum(example.length for example in parts.held_out))
        learned = learn(soup, parts.training, settings, lambda tokens: step(_STEP_COST * tokens))
        losses = _held_out(soup, learned.weights, parts.held_out, settings, step)
    merge = soup.merge(learned.weights)
    if not settings.by_layer:
        merge = replace(merge, table=CoefficientTable({"all": ("*",)}, merge.table.values))
    write_merge(merge, output)
    facts = {"output": str(output), **_facts(soup, learned, losses, parts), "notes": notes}
    return facts, _lines(facts, output)


def _load(recipe: Recipe, sources: RecipeModels, reading: Reading, settings: Settings) -> tuple[ResidentModel, Soup]:
    place, dtype = torch.device(choose_device(reading.device)), getattr(torch, reading.dtype or "float32")
    base = sources.base
    whole = sum(int(np.prod(base.shape(name))) for name in base.names) * dtype.itemsize
    # Off the CPU the engine keeps all originals beside the model and its gradient.
    originals = 0 if place.type == "cpu" else sum(model.nbytes for model in sources.models)
    advice = "Load them in another type (--dtype bfloat16)."
    scores = 12 * int((base.config or {}).get("vocab_size", 0)) * settings.batch_tokens
    check_memory(2 * whole + originals + scores, place, "The model and its gradient", advice)
    resident = load_resident(base, sources.tokenizer, dtype, str(place))
    engine = sources.engine(dtype=dtype, device=str(place), threads=torch.get_num_threads())
    return resident, Soup(pinned(recipe), sources, resident, engine, by_layer=settings.by_layer)


def split_examples(examples: Sequence[Example]) -> _Parts:
    """Split examples into halves by content: duplicates are on one side, and stay there if others are added.

    Raises SoupError for halves that are too small.
    """
    ids = content_ids([" ".join(map(str, example.tokens)) for example in examples])
    sides = [split_of(name, (_TRAINING_SHARE, 0.0, 1.0 - _TRAINING_SHARE)) for name in ids]
    training = [example for example, side in zip(examples, sides, strict=True) if side == "search"]
    held = [example for example, side in zip(examples, sides, strict=True) if side == "report"]
    if not training or len(held) < 2:
        raise SoupError(
            f"Of {len(examples)} examples, {len(training)} are for training, {len(held)} held out; expected at least "
            "1 and 2 of different content: give more data, or a smaller --length."
        )
    return _Parts(training, held)


def _held_out(
    soup: Soup, learned: FloatArray, examples: Sequence[Example], settings: Settings, step: Progress
) -> _Losses:
    n_groups, n_inputs = learned.shape

    def of(what: str, weights: FloatArray) -> FloatArray:
        values = soup.losses(weights, examples, settings.batch_tokens, step)
        if not np.isfinite(values).all():
            raise SoupError(
                f"The loss of {what} is not finite on {int((~np.isfinite(values)).sum())} held-out examples."
            )
        return values

    return _Losses(
        of("the soup", learned),
        of("the uniform average", np.full((n_groups, n_inputs), 1 / n_inputs)),
        {name: of(name, np.tile(row, (n_groups, 1))) for name, row in zip(soup.names, np.eye(n_inputs), strict=True)},
    )


def _facts(soup: Soup, learned: Learned, losses: _Losses, parts: _Parts) -> dict[str, Any]:
    rows = zip(soup.groups, learned.weights.tolist(), strict=True)
    return {
        "weights": {group: dict(zip(soup.names, row, strict=True)) for group, row in rows},
        "temperature": learned.temperature,
        "epochs": list(learned.losses),
        "examples": {"learned": len(parts.training), "held_out": len(parts.held_out)},
        "loss": float(losses.soup.mean()),
        "uniform": _compared(losses.uniform, losses.soup),
        "models": {name: _compared(values, losses.soup) for name, values in losses.models.items()},
    }


def _compared(values: FloatArray, soup: FloatArray) -> dict[str, Any]:
    """Return a model's held-out loss, and by how much the soup's is smaller, with a paired 95 % interval."""
    gain, loss = difference({"": values}, {"": soup}), difference({"": soup}, {"": values})
    return {
        "loss": float(values.mean()),
        "soup_better_by": gain.mean,
        "interval": list(gain.interval),
        "p": gain.p,
        "soup_is_better": gain.shown,
        "soup_is_worse": loss.shown,
    }


def _lines(facts: Mapping[str, Any], output: Path) -> list[str]:
    learned, held = facts["examples"].values()
    weights, uniform = list(facts["weights"].values()), facts["uniform"]
    lines = [f"note: {note}" for note in facts["notes"]]
    for name in weights[0]:
        own = [row[name] for row in weights]
        span = f" on average, {min(own):.3f} to {max(own):.3f}" if len(own) > 1 else ""
        lines.append(f"weight of {name}: {float(np.mean(own)):.3f}{span}")
    lines.append(f"Learned from {learned} examples. Loss on {held} others, in nats per token of the labels:")
    lines.append(f"  soup {facts['loss']:.4f}")
    if facts["temperature"] != 1.0:
        lines[-1] += f" (learned with outputs scaled by {facts['temperature']:.3g}; losses shown here are unscaled)"
    for name, values in {"uniform": uniform, **facts["models"]}.items():
        low, high = values["interval"]
        gain = f"{values['soup_better_by']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
        lines.append(f"  {name} {values['loss']:.4f}; the soup is better by {gain}")
    if uniform["soup_is_worse"]:
        lines.append("The soup is WORSE than the uniform average: use equal weights.")
    elif not uniform["soup_is_better"]:
        lines.append("The soup is NOT shown to be better than the uniform average.")
    worse = [name for name, values in facts["models"].items() if values["soup_is_worse"]]
    lines += [f"The soup is WORSE than {name} alone; more --epochs may take its weights further." for name in worse]
    lines.append(f"Wrote {output}. Next: evomerge merge {output} -o DIR")
    return lines
