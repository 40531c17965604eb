"""RegMean++: second moments behind layers merged already (Nguyen et al., 2025). https://arxiv.org/abs/2508.03121.

Block by block, each input's own block reads what the merged blocks before it write on that input's data. Then the
block is merged, and its merged weights take the data on to the next one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from evomerge import plugins
from evomerge.collection.collect import Progress, check_memory, check_network, finished, sizes, tokens_of
from evomerge.collection.data import CollectionError, Example, batches
from evomerge.collection.gradients import Squares
from evomerge.collection.layers import Accumulator, Collected, LinearLayer, linear_layers, parameter_names, recording
from evomerge.collection.layers import shapes as layer_shapes
from evomerge.merging.engine import MergeEngine
from evomerge.merging.method import MergeMethod
from evomerge.merging.models.model import Model
from evomerge.merging.sources import Sources
from evomerge.models import ResidentModel
from evomerge.recipe import Merge


@dataclass
class _Batch:
    """Hidden states on the way through the blocks, and what else each block reads with them."""

    hidden: Tensor  # (n_examples, length, hidden)
    further: list[tuple[tuple[Any, ...], dict[str, Any]]]
    n_tokens: int


class _Part:
    """Some tensors of a model, as the merge engine takes one."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        there = set(model.names)
        self._model = model
        self.names = tuple(name for name in names if name in there)

    def mergeable(self, name: str) -> bool:
        """Whether the tensor is merged."""
        return self._model.mergeable(name)

    def tensor(self, name: str) -> Tensor:
        """The tensor, on the CPU; it is only read."""
        return self._model.tensor(name)


def check_merge(merge: Merge, data: Sequence[str]) -> None:
    """Refuse a recipe whose method needs no second moments, or of slices, or data of other inputs."""
    method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
    if not any("gram" in kind.split("|") for kind in method.needs):
        raise CollectionError(
            f"The recipe's method is {merge.recipe.method}, which needs no second moments: expected regmean."
        )
    if merge.recipe.slices:
        raise CollectionError("A recipe of slices cannot be gone through: the inputs do not have the same blocks.")
    names = [model.name for model in merge.recipe.inputs]
    if sorted(data) != sorted(names):
        raise CollectionError(f"Data are needed for each of {', '.join(names)}; they are for {', '.join(data)}.")


def collect_through(
    merge: Merge,
    sources: Sources,
    model: ResidentModel,
    examples: Mapping[str, Sequence[Example]],
    batch_tokens: int,
    progress: Progress | None = None,
) -> dict[str, Collected]:
    """The second moments of each input's layers, by input; the model, the base's, ends as the merge.

    examples: by input. progress: called with tokens read and tokens in all; every block reads all of them.
    Raises CollectionError for a network without a list of blocks, and where memory does not suffice.
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
    """The way through the blocks of one network, whose tensors are merged on it."""

    def __init__(
        self, merge: Merge, sources: Sources, model: ResidentModel, examples: Mapping[str, Sequence[Example]]
    ) -> None:
        check_network(model.network)
        self._sources, self._model, self._examples = sources, model, examples
        self._network: Any = model.network
        self.blocks = blocks_of(self._network)
        self.result = {name: Collected() for name in sources.inputs}
        self._layers = linear_layers(model)
        names = [name for name in sources.base.names if sources.base.mergeable(name)]
        self._merge = replace(merge, table=merge.table.bind(names))
        addresses = parameter_names(model)
        self._inside = [
            [addresses[p.data_ptr()] for p in block.parameters() if p.data_ptr() in addresses] for block in self.blocks
        ]
        inside = {name for block in self._inside for name in block}
        self._outside = [name for name in names if name not in inside]
        self._check_memory()

    def steps(self, batch_tokens: int) -> Iterator[int]:
        """Go all the way; yields how many tokens were read."""
        with torch.no_grad():
            self._merge_part(self._outside)
            batches_of: dict[str, list[_Batch]] = {}
            for name, examples in self._examples.items():
                batches_of[name] = [self._enter(batch) for batch in batches(examples, batch_tokens)]
                yield sum(batch.n_tokens for batch in batches_of[name])
            for number, (block, names) in enumerate(zip(self.blocks, self._inside, strict=True)):
                own = [layer for layer in self._layers if layer.name in set(names)]
                for name, entered in batches_of.items():
                    self._become(name, names)
                    self._record(name, own, lambda b=block, n=number, e=entered: [_forward(b, n, batch) for batch in e])
                self._merge_part(names)
                for entered in batches_of.values():
                    for batch in entered:
                        batch.hidden = _forward(block, number, batch)
                        yield batch.n_tokens
            yield from self._leave(batch_tokens)

    def _enter(self, batch: Sequence[Example]) -> _Batch:
        """What the blocks read besides the hidden states, by one pass of the network as it is."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        handles = [
            block.register_forward_pre_hook(
                lambda _, args, kwargs: calls.append((args, dict(kwargs))), with_kwargs=True
            )
            for block in self.blocks
        ]
        try:
            self._network(input_ids=tokens_of(batch, self._network.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        if len(calls) != len(self.blocks):
            raise CollectionError(f"The {len(self.blocks)} blocks of the network were run {len(calls)} times.")
        first = calls[0]
        hidden = first[0][0] if first[0] else first[1]["hidden_states"]
        for _, kwargs in calls:
            kwargs.pop("hidden_states", None)
        return _Batch(hidden, [(args[1:], kwargs) for args, kwargs in calls], len(batch) * batch[0].length)

    def _become(self, name: str, tensors: Sequence[str]) -> None:
        """Give the network an input's own weights."""
        for tensor in tensors:
            self._model.tensors[tensor].copy_(self._sources.inputs[name].tensor(tensor))

    def _record(self, name: str, layers: Sequence[LinearLayer], run: Any) -> None:
        wanted = layer_shapes(layers, ("gram",))
        into = Accumulator({n: s for n, s in wanted.items() if n.startswith("gram/")}, self._network.device)
        with recording(layers, "gram", into):
            run()
        self.result[name].update(finished(wanted, into, Squares({})))

    def _merge_part(self, names: Sequence[str]) -> None:
        """Merge some tensors, with the moments collected so far, into the network."""
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

    def _leave(self, batch_tokens: int) -> Iterator[int]:
        """Layers behind the blocks, the output embeddings, read what the whole merge writes; they stay averaged."""
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


def blocks_of(network: Any) -> list[nn.Module]:
    """The blocks of a decoder: the list of as many modules as the configuration has layers."""
    config = getattr(network.config, "text_config", None) or network.config
    depth = getattr(config, "num_hidden_layers", None)
    found = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(found) != 1:
        raise CollectionError(
            f"{type(network).__name__} has {len(found)} lists of its {depth} blocks; expected one: its layers cannot "
            "be merged one after the other."
        )
    return list(found[0])


def _forward(block: nn.Module, number: int, batch: _Batch) -> Tensor:
    args, kwargs = batch.further[number]
    written = block(batch.hidden, *args, **kwargs)
    hidden: Tensor = written[0] if isinstance(written, tuple) else written
    return hidden
