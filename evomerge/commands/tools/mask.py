"""`evomerge tools mask`: masks of deltas that are learned from data, as statistics and a recipe for `masked`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.commands.init import named_inputs
from evomerge.commands.progress import counted, progress_bar
from evomerge.commands.tools.calibrate import Reading, check_continues_text, check_folder, file_name, name_data
from evomerge.commands.tools.soup import split_examples
from evomerge.merging.models.model import Model
from evomerge.merging.output.manifest import pinned
from evomerge.merging.output.single_file import RECIPE, STATISTICS, check_file
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.prepare.calibration import collect
from evomerge.prepare.calibration.data import CollectionError, Example, read_texts
from evomerge.prepare.label_losses import BatchLoss, entropies, label_losses
from evomerge.prepare.masks.concrete import ConcreteSettings, learn_concrete
from evomerge.prepare.masks.graft import GraftSettings, learn_graft
from evomerge.prepare.masks.network import Change, ChangedNetwork, Slope, count
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.file import write_merge
from evomerge.recipe.model_names import named_input, published
from evomerge.resident.resident import ResidentModel, choose_device, load_resident
from search_spaces.base import CoefficientTable

#: Losses to learn a concrete mask by: from answers, or from confident predictions, without labels.
LOSSES: Mapping[str, BatchLoss] = {"labels": label_losses, "entropy": entropies}
#: Cost of a forward and backward pass, in forward passes.
_STEP_COST = 3
#: Float32 copies of the weights: base, delta, change, and logits, masks, gradients and moments of the learner.
_COPIES = 8
_FILE = "recipe.yaml"


@dataclass(frozen=True)
class MaskSettings:
    """learner: settings of a graft of each model, or of one concrete mask for all.

    loss: one of LOSSES, of the concrete mask. batch_examples: of each model in a step of it. batch_tokens: per pass.
    """

    learner: GraftSettings | ConcreteSettings
    loss: str = "labels"
    batch_examples: int = 8
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise CollectionError(f"The loss is {self.loss!r}; expected {' or '.join(LOSSES)}.")
        if isinstance(self.learner, GraftSettings) and self.loss != "labels":
            raise CollectionError("Grafts are learned from labels; --loss entropy is for --kind concrete.")
        if min(self.batch_examples, self.batch_tokens) < 1:
            raise CollectionError(
                f"There are {self.batch_examples} examples per step and {self.batch_tokens} tokens per pass; expected "
                "at least 1."
            )


@dataclass(frozen=True, eq=False)
class _Learned:
    """masks: of each model, by tensor. facts: about the learning, plain data. lines: the same as text."""

    masks: Mapping[str, Mapping[str, Tensor]]
    facts: dict[str, Any]
    lines: list[str]


def learn_masks(
    base: str,
    models: Sequence[str],
    data: Sequence[str],
    output: Path,
    settings: MaskSettings,
    reading: Reading,
    *,
    overwrite: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Learn masks for the deltas of `models`; write them, and a recipe that names them, to the folder `output`.

    data: a file, or NAME=FILE for each of several models. Returns data and lines to print. Raises EvaluatorError,
    CollectionError or SoupError for options and data, CheckpointError, ModelError or CollectionError for the models,
    OutputError for the output; where possible before the first step.
    """
    inputs = named_inputs(models)
    files = _files([model.name for model in inputs], data)
    written = {model.name: output / file_name(model.name, number) for number, model in enumerate(inputs)}
    read = [Path(base), *map(Path, models), *files.values()]
    check_folder(output, overwrite=overwrite)
    if output.is_dir():
        for file in written.values():
            check_file(file, ours=STATISTICS, overwrite=overwrite, inputs=read)
        check_file(output / _FILE, ours=RECIPE, overwrite=overwrite, inputs=read)
    texts = {name: read_texts(file, reading.separator) for name, file in files.items()}
    recipe = Recipe(named_input("base", base), inputs, "masked")
    sources = open_models(recipe)
    check_continues_text(sources.base, sources.tokenizer)
    resident = _load(sources, settings, reading)
    examples = {name: reading.encode(part, resident) for name, part in texts.items()}
    names, learned = _learn(sources, resident, examples, settings)
    output.mkdir(parents=True, exist_ok=True)
    for model in inputs:
        # Tied tensors have one mask, and a copy of it for each name, as safetensors stores no tensor twice.
        masks = {
            f"mask/{n}": learned.masks[model.name][first].cpu().clone() for first, all_ in names.items() for n in all_
        }
        collect.write(masks, written[model.name], sources.inputs[model.name], published(model))
    pins = pinned(recipe)
    pins = replace(pins, inputs=tuple(replace(m, statistics=str(written[m.name])) for m in pins.inputs))
    weight = settings.learner.weight if isinstance(settings.learner, ConcreteSettings) else 1.0
    groups = {"all": tuple(name for all_ in names.values() for name in all_)}
    table = CoefficientTable(groups, {"weight": np.full((1, len(inputs)), weight)})
    write_merge(Merge(pins, table), output / _FILE)
    next_ = f"Wrote {output}. Next: evomerge merge {output / _FILE} -o DIR"
    return {"output": str(output), **learned.facts}, [*learned.lines, next_]


def learner_settings(
    kind: str, *, density: float | None, weight: float | None, steps: int | None, lr: float | None, seed: int
) -> GraftSettings | ConcreteSettings:
    """Return the settings of a learner; None for its default. Raises CollectionError for an option of the other one."""
    own = {"graft": {"density": density}, "concrete": {"weight": weight, "seed": seed}}
    if kind not in own:
        raise CollectionError(f"--kind is {kind!r}; expected {' or '.join(own)}.")
    foreign = {"graft": ("--weight", weight), "concrete": ("--density", density)}[kind]
    if foreign[1] is not None:
        raise CollectionError(f"{foreign[0]} is no option of --kind {kind}.")
    given = {**own[kind], "steps": steps, "learning_rate": lr}
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return GraftSettings(**named) if kind == "graft" else ConcreteSettings(**named)


def _files(names: Sequence[str], data: Sequence[str]) -> dict[str, Path]:
    """Return the file of each model. Raises CollectionError if one has none."""
    if len(names) == 1 and len(data) == 1 and not data[0].startswith(f"{names[0]}="):
        return {names[0]: Path(data[0])}
    files = name_data(data)
    if set(files) != set(names):
        raise CollectionError(
            f"--data names {', '.join(files)}; expected NAME=FILE once for each of the models {', '.join(names)}."
        )
    return {name: files[name] for name in names}


def _load(sources: RecipeModels, settings: MaskSettings, reading: Reading) -> ResidentModel:
    place, dtype = torch.device(choose_device(reading.device)), getattr(torch, reading.dtype or "float32")
    base = sources.base
    elements = sum(prod(base.shape(name)) for name in base.names)
    scores = 12 * int((base.config or {}).get("vocab_size", 0)) * settings.batch_tokens
    needed = elements * (2 * dtype.itemsize + _COPIES * torch.float32.itemsize) + scores
    advice = "Masks take several times the memory of a model: learn them on another machine, or on a smaller model."
    collect.check_memory(needed, place, "The model, its gradient and its mask", advice)
    return load_resident(base, sources.tokenizer, dtype, str(place))


def _learn(
    sources: RecipeModels, resident: ResidentModel, examples: Mapping[str, Sequence[Example]], settings: MaskSettings
) -> tuple[Mapping[str, tuple[str, ...]], _Learned]:
    learner, title = settings.learner, f"{sum(map(len, examples.values()))} examples, {len(examples)} models"
    halves = {name: split_examples(part) for name, part in examples.items()}
    tokens = {
        side: sum(e.length for half in halves.values() for e in getattr(half, side))
        for side in ("training", "held_out")
    }
    if isinstance(learner, GraftSettings):
        work = _STEP_COST * learner.steps * tokens["training"] + (learner.steps + 3) * tokens["held_out"]
    else:
        n_training = sum(len(half.training) for half in halves.values())
        read = learner.steps * min(settings.batch_examples * len(halves), n_training)
        work = _STEP_COST * read * tokens["training"] // n_training + 2 * tokens["held_out"]
    with progress_bar(title) as progress:
        step = counted(progress, work)
        network = ChangedNetwork(resident, sources.base, LOSSES[settings.loss], settings.batch_tokens, step)
        if isinstance(learner, GraftSettings):
            return network.names, _grafts(network, sources.inputs, halves, learner)
        return network.names, _concrete(network, sources.inputs, halves, learner, settings.batch_examples)


def _grafts(
    network: ChangedNetwork, experts: Mapping[str, Model], halves: Mapping[str, Any], settings: GraftSettings
) -> _Learned:
    masks, facts, lines = {}, {}, []
    for name, expert in experts.items():
        half, delta = halves[name], network.delta(expert)

        def held_out(change: Change, half: Any = half) -> float:
            return float(network.losses(change, half.held_out).mean())

        def slope(change: Change, half: Any = half) -> Slope:
            return network.slope(change, half.training)

        nothing = {tensor: torch.zeros_like(values) for tensor, values in delta.items()}
        ends = {"base": held_out(nothing), "model": held_out(delta)}
        found = learn_graft(delta, slope, held_out, settings)
        kept, whole = count(found.masks.values())
        masks[name] = found.masks
        facts[name] = {
            "kept": kept,
            "elements": whole,
            "losses": list(found.losses),
            "best_step": found.best,
            "loss": found.losses[found.best],
            **{f"loss_of_{end}": loss for end, loss in ends.items()},
        }
        share, of = f"{100 * kept / whole:.3g} %", f"{found.best} of {settings.steps} steps"
        lines.append(f"{name}: {kept} of {whole} elements ({share}), after {of}")
        lines.append(f"  loss on {len(half.held_out)} held-out examples, in nats per token of the labels:")
        lines.append(
            f"  base {ends['base']:.4f}, largest elements {found.losses[0]:.4f}, learned mask "
            f"{found.losses[found.best]:.4f}, whole model {ends['model']:.4f}"
        )
        if found.best == 0:
            lines.append("  No step was better than the largest elements; another --lr, or more data, may help.")
    return _Learned(masks, {"kind": "graft", "models": facts}, lines)


def _concrete(
    network: ChangedNetwork,
    experts: Mapping[str, Model],
    halves: Mapping[str, Any],
    settings: ConcreteSettings,
    batch_examples: int,
) -> _Learned:
    total: dict[str, Tensor] = {}
    for expert in experts.values():
        delta = network.delta(expert)
        total = {name: total[name] + values if total else values for name, values in delta.items()}
    draw = _drawing([half.training for half in halves.values()], batch_examples, settings.seed)
    found = learn_concrete(total, lambda step, change: network.slope(change, draw(step)), settings)

    def loss(mask: Mapping[str, Tensor]) -> dict[str, float]:
        change = {name: settings.weight * mask[name] * values for name, values in total.items()}
        return {name: float(network.losses(change, half.held_out).mean()) for name, half in halves.items()}

    before = loss({name: torch.ones_like(values) for name, values in total.items()})
    after = loss(found.masks)
    lines = [f"One mask for {', '.join(experts)} after {settings.steps} steps, weight {settings.weight:g}"]
    lines += [
        f"  loss on {len(halves[name].held_out)} held-out examples of {name}: without mask {before[name]:.4f}, "
        f"with mask {after[name]:.4f}"
        for name in experts
    ]
    if sum(after.values()) >= sum(before.values()):
        lines.append("  The mask is not better than none.")
    facts = {"kind": "concrete", "loss_without": before, "loss": after, "losses": list(found.losses)}
    return _Learned(dict.fromkeys(experts, found.masks), facts, lines)


def _drawing(sets: Sequence[Sequence[Example]], batch_examples: int, seed: int) -> Callable[[int], list[Example]]:
    """Return a function from a step to its examples: as many of each set, drawn without replacement."""

    def draw(step: int) -> list[Example]:
        random = np.random.Generator(np.random.Philox(key=[seed + 1, step]))
        chosen = [random.permutation(len(part))[:batch_examples] for part in sets]
        return [part[index] for part, rows in zip(sets, chosen, strict=True) for index in rows]

    return draw
