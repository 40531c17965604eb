"""REPAIR of a transformer's MLPs, block by block (Jordan et al., 2023). https://arxiv.org/abs/2211.08403.

It corrects the layers whose outputs are hidden units of an MLP: gates, up projections, first layers. The input of an
activation function, and the factor of its output, then have the scale for which the second layer was trained.
Other layers are unchanged: queries and keys occur only as products of one scale; values and second layers write
(through the output projection) to the residual stream, which the next norm rescales.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.merging.models.model import Model
from evomerge.prepare.alignment.repair import Channels, Running, repair, rescale
from evomerge.prepare.alignment.symmetries import mlp_inputs
from evomerge.prepare.calibration.blocks import blocks_of, enter, forward
from evomerge.prepare.calibration.collect import check_memory, check_network, tokens_of
from evomerge.prepare.calibration.data import CollectionError, Example
from evomerge.prepare.calibration.layers import LinearLayer, linear_layers
from evomerge.resident.resident import ResidentModel

#: Statistics by the name of the layer's weight.
Statistics = Mapping[str, Channels]
#: Called with tokens times passes through the whole network.
Step = Callable[[float], None]


@dataclass(frozen=True)
class Repaired:
    """Corrected tensors of a checkpoint, in its dtypes, and the statistics before and after correction."""

    tensors: Mapping[str, Tensor]
    before: Statistics
    after: Statistics


def hidden_layers(model: ResidentModel, checkpoint: Model) -> list[list[LinearLayer]]:
    """Return, per block, the layers that write hidden units of its MLP. Raises CollectionError if there are none."""
    check_network(model.network)
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names if checkpoint.mergeable(name)}
    names = frozenset(mlp_inputs(shapes, checkpoint.config))
    layers = [layer for layer in linear_layers(model) if layer.name in names]
    inside = [{id(module) for module in block.modules()} for block in blocks_of(model.network)]
    found = [[layer for layer in layers if id(layer.module) in block] for block in inside]
    if not any(found):
        raise CollectionError(
            f"{checkpoint.path}: found no layers that write hidden units; expected MLPs with the tensor names of "
            "Llama (gate_proj and up_proj, or gate_up_proj), OPT (fc1) or GPT-2 (c_fc)."
        )
    return found


def bias_name(weight: str) -> str:
    """Return the name of the bias that belongs to a layer's weight, if it has one."""
    return f"{weight.removesuffix('weight')}bias"


def check_data(model: ResidentModel, checkpoint: Model, examples: Sequence[Example]) -> None:
    """Raise CollectionError for data without variance, or data too large to fit into memory next to a model."""
    tokens = sum(example.length for example in examples)
    if tokens < 2:
        raise CollectionError(f"The model reads {tokens} token of the data; a standard deviation needs at least two.")
    hidden = 4 * tokens * model.network.get_input_embeddings().weight.shape[1]
    layers = [layer for own in hidden_layers(model, checkpoint) for layer in own]
    corrected = sum(checkpoint.dtype(layer.name).itemsize * layer.n_in * layer.n_out for layer in layers)
    check_memory(hidden + corrected, model.network.device, "Hidden states and corrected layers", "Give --examples.")


def observe(model: ResidentModel, checkpoint: Model, data: Sequence[Sequence[Example]], step: Step) -> Statistics:
    """Measure the hidden layers of a whole model over all tokens. Takes one pass.

    data: batches of examples of one length. Raises CollectionError if statistics are not finite.
    """
    network = model.network
    layers = [layer for own in hidden_layers(model, checkpoint) for layer in own]
    with _watching(layers) as found, torch.no_grad():
        for batch in data:
            network(input_ids=tokens_of(batch, network.device), use_cache=False)
            step(sum(example.length for example in batch))
    return _channels(found)


def repair_blocks(
    model: ResidentModel,
    checkpoint: Model,
    wanted: Statistics,
    data: Sequence[Sequence[Example]],
    step: Step,
    *,
    scale_only: bool = False,
) -> Repaired:
    """Correct the hidden layers of each block after the blocks corrected before. Takes three passes.

    model: holds `checkpoint`, and is corrected with it. data: batches of examples of one length.
    scale_only: RESCALE, which layers without a bias get in any case. Raises like `observe`.
    """
    blocks, layers = blocks_of(model.network), hidden_layers(model, checkpoint)
    tensors: dict[str, Tensor] = {}
    after: dict[str, Channels] = {}
    with torch.no_grad():
        with _watching([layer for own in layers for layer in own]) as before:
            entered = []
            for part in data:
                entered.append(enter(model.network, blocks, part))
                step(entered[-1].n_tokens)
        for number, (block, own) in enumerate(zip(blocks, layers, strict=True)):
            with _watching(own) as found:
                for batch in entered:
                    forward(block, number, batch)
            found_now = _channels(found)
            for layer in own:
                folded = _fold(layer, checkpoint, found_now[layer.name], wanted[layer.name], scale_only=scale_only)
                tensors |= folded
                for name, tensor in folded.items():
                    model.tensors[name].copy_(tensor)
            model.settle()
            with _watching(own) as found:
                for batch in entered:
                    batch.hidden = forward(block, number, batch)
            after |= _channels(found)
            step(2 * sum(batch.n_tokens for batch in entered) / len(blocks))
    return Repaired(tensors, _channels(before), after)


def deviations(found: Statistics, wanted: Statistics) -> tuple[float, float]:
    """Return the mean absolute deviations of means and of standard deviations, over the channels of all layers."""
    means = torch.cat([found[name].mean - wanted[name].mean for name in wanted])
    stds = torch.cat([found[name].std - wanted[name].std for name in wanted])
    return float(means.abs().mean()), float(stds.abs().mean())


def _fold(
    layer: LinearLayer, checkpoint: Model, found: Channels, wanted: Channels, *, scale_only: bool
) -> dict[str, Tensor]:
    """Return the layer's weight, and its bias if it has one, as the checkpoint stores them."""
    stored, bias = checkpoint.tensor(layer.name), bias_name(layer.name)
    weight = stored.T if layer.transposed else stored
    if bias not in checkpoint.names:
        made, _ = rescale(weight, None, found, wanted)
        moved = None
    else:
        made, moved = (rescale if scale_only else repair)(weight, checkpoint.tensor(bias), found, wanted)
    kept = {layer.name: (made.T if layer.transposed else made).contiguous()}
    return kept if moved is None else kept | {bias: moved}


@contextmanager
def _watching(layers: Sequence[LinearLayer]) -> Iterator[dict[str, Running]]:
    """Record the outputs of the layers in forward passes within the context."""
    found = {layer.name: Running() for layer in layers}

    def watch(own: Running) -> Any:
        return lambda _, __, output: own.add(output)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(watch(found[layer.name])).remove)
        yield found


def _channels(found: Mapping[str, Running]) -> dict[str, Channels]:
    statistics = {name: running.channels() for name, running in found.items()}
    for name, one in statistics.items():
        if not (torch.isfinite(one.mean).all() and torch.isfinite(one.std).all()):
            raise CollectionError(
                f"The outputs of {name} are not finite: does the model compute finite numbers on these data?"
            )
    return statistics
