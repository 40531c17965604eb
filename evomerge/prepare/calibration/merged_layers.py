"""RegMean++: second moments measured after merged layers (Nguyen et al., 2025). https://arxiv.org/abs/2508.03121.

Block by block, each input's own block reads the outputs of the merged blocks before it on that input's data. Then the
block is merged, and its merged weights process the data for the next one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evomerge import plugins
from evomerge.merging.engine import MergeEngine
from evomerge.merging.method import MergeMethod
from evomerge.merging.models.model import Model
from evomerge.merging.recipe_models import RecipeModels
from evomerge.prepare.calibration.blocks import Batch, blocks_of, enter, forward
from evomerge.prepare.calibration.collect import Progress, check_memory, check_network, finished, sizes, tokens_of
from evomerge.prepare.calibration.data import CollectionError, Example, batches
from evomerge.prepare.calibration.gradients import Squares
from evomerge.prepare.calibration.layers import Accumulator, Collected, LinearLayer, linear_layers, parts, recording
from evomerge.prepare.calibration.layers import shapes as layer_shapes
from evomerge.recipe import Merge
from evomerge.resident.resident import ResidentModel


class _Part:
    """Some tensors of a model, in the form that the merge engine expects."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        there = set(model.names)
        self._model = model
        self.names = tuple(name for name in names if name in there)

    def mergeable(self, name: str) -> bool:
        """Return whether the tensor is merged."""
        return self._model.mergeable(name)

    def tensor(self, name: str) -> Tensor:
        """Return the tensor, on the CPU; read-only."""
        return self._model.tensor(name)


def check_merge(merge: Merge, data: Sequence[str]) -> None:
    """Check a recipe and its data: a method with second moments, no slices, and data for every input."""
    method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
    if not any("gram" in kind.split("|") for kind in method.needs):
        raise CollectionError(
            f"The recipe's method is {merge.recipe.method}, which needs no second moments: expected regmean."
        )
    if merge.recipe.slices:
        raise CollectionError("A recipe with slices is unsupported here: the inputs do not have the same blocks.")
    names = [model.name for model in merge.recipe.inputs]
    if sorted(data) != sorted(names):
        raise CollectionError(f"Expected data for each of {', '.join(names)}; got data for {', '.join(data)}.")


def collect_through(
    merge: Merge,
    sources: RecipeModels,
    model: ResidentModel,
    examples: Mapping[str, Sequence[Example]],
    batch_tokens: int,
    progress: Progress | None = None,
) -> dict[str, Collected]:
    """Return the second moments of each input's layers, by input; the model, loaded with the base, becomes the merge.

    examples: by input. progress: called with tokens read and tokens in total; every block reads all of them.
    Raises CollectionError for a network without a list of blocks, and if memory is insufficient.
    """
    walk = _Walk(merge, sources, model, examples)
    total = sum(example.length for part in examples.values() for example in part) * (len(walk.blocks) + 2)
    done = 0
    for tokens in walk.steps(batch_tokens):
        done += tokens
        if progress is not None:
            progress(done, total)
    return walk.result


class _Walk:
    """A walk through the blocks of one network, whose tensors are merged on the way."""

    def __init__(
        self, merge: Merge, sources: RecipeModels, model: ResidentModel, examples: Mapping[str, Sequence[Example]]
    ) -> None:
        check_network(model.network)
        self._sources, self._model, self._examples = sources, model, examples
        self._network: Any = model.network
        self.blocks = blocks_of(self._network)
        self.result = {name: Collected() for name in sources.inputs}
        self._layers = linear_layers(model)
        names = [name for name in sources.base.names if sources.base.mergeable(name)]
        self._merge = replace(merge, table=merge.table.bind(names))
        owners = {name: id(part.parameter) for name, part in parts(model).items() if name in set(names)}
        within = [{id(parameter) for parameter in block.parameters()} for block in self.blocks]
        self._inside = [[name for name, owner in owners.items() if owner in block] for block in within]
        inside = {name for block in self._inside for name in block}
        self._outside = [name for name in names if name not in inside]
        self._check_memory()

    def steps(self, batch_tokens: int) -> Iterator[int]:
        """Process all blocks; yield the number of tokens read."""
        with torch.no_grad():
            self._merge_part(self._outside)
            batches_of: dict[str, list[Batch]] = {}
            for name, examples in self._examples.items():
                batches_of[name] = [
                    enter(self._network, self.blocks, batch) for batch in batches(examples, batch_tokens)
                ]
                yield sum(batch.n_tokens for batch in batches_of[name])
            for number, (block, names) in enumerate(zip(self.blocks, self._inside, strict=True)):
                own = [layer for layer in self._layers if layer.name in set(names)]
                for name, entered in batches_of.items():
                    self._become(name, names)
                    self._record(name, own, lambda b=block, n=number, e=entered: [forward(b, n, batch) for batch in e])
                self._merge_part(names)
                for entered in batches_of.values():
                    for batch in entered:
                        batch.hidden = forward(block, number, batch)
                        yield batch.n_tokens
            yield from self._leave(batch_tokens)

    def _become(self, name: str, tensors: Sequence[str]) -> None:
        """Load an input's own weights into the network."""
        for tensor in tensors:
            self._model.tensors[tensor].copy_(self._sources.inputs[name].tensor(tensor))
        self._model.settle()

    def _record(self, name: str, layers: Sequence[LinearLayer], run: Any) -> None:
        wanted = layer_shapes(layers, ("gram",))
        into = Accumulator({n: s for n, s in wanted.items() if n.startswith("gram/")}, self._network.device)
        with recording(layers, "gram", into):
            run()
        self.result[name].update(finished(wanted, into, Squares({})))

    def _merge_part(self, names: Sequence[str]) -> None:
        """Merge some tensors into the network, with the moments collected so far."""
        part = set(names)
        groups = {
            group: tuple(name for name in members if name in part)
            for group, members in self._merge.table.groups.items()
        }
        table = self._merge.table.regroup({group: members for group, members in groups.items() if members})
        engine = MergeEngine(
            _Part(self._sources.base, names),
            [_Part(model, names) for model in self._sources.inputs.values()],
            names=tuple(self._sources.inputs),
            dtype=None if self._merge.recipe.dtype is None else getattr(torch, self._merge.recipe.dtype),
            device=str(self._network.device),
            threads=torch.get_num_threads(),
            moments=[None, *self.result.values()],
        )
        engine.apply(replace(self._merge, table=table), {name: self._model.tensors[name] for name in names})
        self._model.settle()

    def _leave(self, batch_tokens: int) -> Iterator[int]:
        """Finish the layers after the blocks: output embeddings read the whole merge, but stay averaged."""
        layers = [layer for layer in self._layers if layer.name in set(self._outside)]
        for name, examples in self._examples.items():
            tokens = [tokens_of(batch, self._network.device) for batch in batches(examples, batch_tokens)]
            if layers:
                self._record(
                    name, layers, lambda t=tokens: [self._network(input_ids=ids, use_cache=False) for ids in t]
                )
            yield sum(ids.numel() for ids in tokens)
        if layers:
            self._merge_part([layer.name for layer in layers])

    def _check_memory(self) -> None:
        per_input = sum(sizes(layer_shapes(self._layers, ("gram",))).values())
        width = self._layers[0].n_in if self._layers else 0
        hidden = sum(example.length for part in self._examples.values() for example in part) * width * 4
        scores = 8 * self._network.get_output_embeddings().weight.shape[0] * 4096
        needed = per_input * len(self.result) + hidden + scores
        check_memory(needed, self._network.device, f"The second moments of {len(self.result)} inputs")
