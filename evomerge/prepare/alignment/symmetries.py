"""Permutation symmetries of a model: hidden units that can be reordered without changing its outputs.

Inferred from names and shapes of tensors, for decoders with the names of Llama (also with fused projections and
experts) and of GPT-2, and for plain chains of linear layers. Attention heads move as a whole; with grouped queries the
groups move, and the heads within a group. The residual stream can be reordered only if every tensor that touches it is
known: RMSNorm and LayerNorm treat all channels alike.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evomerge.errors import REFUSED, EvomergeError

Shapes = Mapping[str, tuple[int, ...]]

#: Inputs and output of an MLP under one parent, and the number of projections stacked in each input's weight.
_MLPS: tuple[tuple[tuple[str, ...], str, int], ...] = (
    (("gate_proj", "up_proj"), "down_proj", 1),
    (("gate_up_proj",), "down_proj", 2),
    (("w1", "w3"), "w2", 1),
    (("fc1",), "fc2", 1),
    (("c_fc",), "c_proj", 1),
)
#: Inputs of attention (all three in one weight, or each in its own), and its output.
_ATTENTIONS = (
    (("q_proj", "k_proj", "v_proj"), "o_proj"),
    (("q_proj", "k_proj", "v_proj"), "out_proj"),
    (("qkv_proj",) * 3, "o_proj"),
    (("c_attn",) * 3, "c_proj"),
)
#: Architectures whose linear layers of these names store their weights as (in, out).
_INPUTS_FIRST = ("gpt2", "openai-gpt")
_CONVOLUTIONS = re.compile(r"(?:^|\.)(?:c_fc|c_attn|c_proj)$")

_EMBEDDING = re.compile(r"(?:^|\.)(?:wte|wpe|embed_tokens|embed_positions|lm_head)\.weight$")
_ROUTER = re.compile(r"\.(?:gate|router|shared_expert_gate)\.weight$")
_NORM = re.compile(r"(?<![qk]_)(?:norm|ln_\w+)\.(?:weight|bias)$")
_HEAD_NORM = re.compile(r"\.[qk]_norm\.weight$")


class AlignError(EvomergeError):
    """A model whose hidden units are unknown, or not known well enough for the request."""

    exit_code = REFUSED


@dataclass(frozen=True)
class Place:
    """Location of units: consecutive blocks of `block` indices along one axis of a tensor, beginning at `start`."""

    tensor: str
    axis: int
    start: int = 0
    block: int = 1


@dataclass(frozen=True)
class Units:
    """Interchangeable units: the same permutation in all places leaves the outputs unchanged."""

    name: str
    count: int
    places: tuple[Place, ...]


def find_units(shapes: Shapes, config: Mapping[str, Any] | None, *, residual: bool = False) -> tuple[Units, ...]:
    """Return all units of a model with these learned tensors and this config.json, ignoring unknown tensors.

    residual: include the channels of the residual stream. Raises AlignError for a model without known units, and for
    a residual stream used by an unknown tensor.
    """
    decoder = _Decoder(shapes, config or {})
    parents = dict.fromkeys(name.rsplit(".", 2)[0] for name in shapes if name.count(".") >= 2)
    found = [units for parent in parents for units in (*decoder.mlp(parent), *decoder.attention(parent))]
    if residual:
        found.append(decoder.residual(found))
    found = found or list(_chain(shapes))
    if not found:
        raise AlignError(
            "Found no hidden units to match: expected a decoder with the tensor names of Llama or "
            f"GPT-2, or a chain of linear layers with numbered names; the first tensor is {next(iter(shapes), None)!r}."
        )
    return tuple(units for units in found if units.count > 1)


def mlp_inputs(shapes: Shapes, config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the weights whose outputs are hidden units of a decoder's MLPs: gates, up projections, first layers."""
    decoder = _Decoder(shapes, config or {})
    parents = dict.fromkeys(name.rsplit(".", 2)[0] for name in shapes if name.count(".") >= 2)
    places = (place for parent in parents for units in decoder.mlp(parent) for place in units.places[:-1])
    return tuple(dict.fromkeys(place.tensor for place in places if place.tensor.endswith(".weight")))


class _Decoder:
    """Names and shapes of a decoder's tensors, as places of its units."""

    def __init__(self, shapes: Shapes, config: Mapping[str, Any]) -> None:
        self._shapes = shapes
        heads = config.get("num_attention_heads", config.get("n_head"))
        groups = config.get("num_key_value_heads") or heads
        self._heads, self._groups = (n if isinstance(n, int) and n > 0 else 0 for n in (heads, groups))
        self._inputs_first = config.get("model_type") in _INPUTS_FIRST
        self._known_order = bool(config)

    def mlp(self, parent: str) -> Iterator[Units]:
        """Yield the hidden units of the MLP under `parent`, if there is one."""
        for ins, out, parts in _MLPS:
            layers, last = [f"{parent}.{layer}" for layer in ins], f"{parent}.{out}"
            if not self._are_linear(*layers, last):
                continue
            count = self._width(last, outputs=False)
            places = [p for layer in layers for i in range(parts) for p in self._outputs(layer, i * count)]
            known = {place.tensor for place in places} | {f"{last}.weight", f"{last}.bias"}
            strangers = (name for name in self._under(parent) if name not in known and count in self._shapes[name])
            if all(self._gives(layer, parts * count) for layer in layers) and not any(strangers):
                yield Units(f"{parent}: hidden units", count, (*places, self._input(last)))

    def attention(self, parent: str) -> Iterator[Units]:
        """Yield the heads of the attention under `parent`: groups with a key and a value each, and their queries."""
        for ins, out in _ATTENTIONS:
            layers, last = [f"{parent}.{layer}" for layer in ins], f"{parent}.{out}"
            if 0 in (self._heads, self._groups) or self._heads % self._groups or not self._are_linear(*layers, last):
                continue
            if ins[0] == "c_attn" and not self._inputs_first:
                continue  # other layouts interleave queries, keys and values per head
            size = self._width(last, outputs=False) // self._heads
            sizes = (self._heads * size, self._groups * size, self._groups * size)
            fused = len(set(layers)) == 1
            starts = (0, sizes[0], sizes[0] + sizes[1]) if fused else (0, 0, 0)
            if not all(self._gives(n, sum(sizes) if fused else w) for n, w in zip(layers, sizes, strict=True)):
                continue
            parts = [list(self._outputs(layer, start, size)) for layer, start in zip(layers, starts, strict=True)]
            queries = [*parts[0], self._input(last, size)]
            others = [*parts[1], *parts[2]]
            norms = {f"{parent}.{name}.weight" for name in ("q_norm", "k_norm")}
            known = {place.tensor for place in (*queries, *others)} | norms | {f"{last}.bias"}
            norms_fit = self._add_norms(parent, size, queries, others)
            if norms_fit and all(name in known for name in self._under(parent)):
                yield from self._grouped(parent, size, queries, others)

    def _grouped(self, parent: str, size: int, queries: list[Place], others: list[Place]) -> Iterator[Units]:
        each = self._heads // self._groups
        places = (*(replace(place, block=each * size) for place in queries), *others)
        yield Units(f"{parent}: heads", self._groups, places)
        for group in range(self._groups if each > 1 else 0):
            inside = tuple(replace(place, start=place.start + group * each * size) for place in queries)
            yield Units(f"{parent}: heads of group {group}", each, inside)

    def _add_norms(self, parent: str, size: int, queries: list[Place], keys: list[Place]) -> bool:
        """Return whether norms of queries and keys either have one head's size, shared by all, or one part per head."""
        for norm, count, places in (("q_norm", self._heads, queries), ("k_norm", self._groups, keys)):
            name = f"{parent}.{norm}.weight"
            shape = self._shapes.get(name, (size,))
            if shape == (count * size,) and count > 1:
                places.append(Place(name, 0, 0, size))
            elif shape != (size,):
                return False
        return True

    def residual(self, units: Iterable[Units]) -> Units:
        """Return the channels between blocks: every tensor reads, writes or scales them, or is inside a block."""
        inner = {(place.tensor, place.axis) for one in units for place in one.places}
        layers = {name.removesuffix(".weight") for name, _ in inner}
        widths = sorted({shape[-1] for name, shape in self._shapes.items() if _EMBEDDING.search(name)})
        if len(widths) != 1:
            raise AlignError(f"A residual stream needs one width; this model's embeddings have {widths or 'none'}.")
        width, places = widths[0], []
        for name, shape in self._shapes.items():
            free = [axis for axis in range(len(shape)) if (name, axis) not in inner]
            if _EMBEDDING.search(name) or _ROUTER.search(name):
                free = [1]
            elif not free or _HEAD_NORM.search(name):
                continue
            elif not _NORM.search(name) and name.removesuffix(".weight").removesuffix(".bias") not in layers:
                free = []
            if len(free) != 1 or free[0] >= len(shape) or shape[free[0]] != width:
                raise AlignError(
                    f"The residual stream cannot be reordered: the role of {name} {shape} in it is unknown. "
                    "Leave it unchanged (without --residual)."
                )
            places.append(Place(name, free[0]))
        return Units("residual stream", width, tuple(places))

    def _under(self, parent: str) -> Iterator[str]:
        return (name for name in self._shapes if name.startswith(f"{parent}."))

    def _are_linear(self, *layers: str) -> bool:
        ordered = self._known_order or not any(_CONVOLUTIONS.search(layer) for layer in layers)
        return ordered and all(len(self._shapes.get(f"{layer}.weight", ())) == 2 for layer in layers)

    def _axis(self, layer: str, *, outputs: bool) -> int:
        inputs_first = self._inputs_first and _CONVOLUTIONS.search(layer) is not None
        return int(outputs == inputs_first)

    def _width(self, layer: str, *, outputs: bool) -> int:
        return self._shapes[f"{layer}.weight"][self._axis(layer, outputs=outputs)]

    def _gives(self, layer: str, width: int) -> bool:
        bias = self._shapes.get(f"{layer}.bias", (width,))
        return self._width(layer, outputs=True) == width and bias == (width,)

    def _outputs(self, layer: str, start: int, block: int = 1) -> Iterator[Place]:
        yield Place(f"{layer}.weight", self._axis(layer, outputs=True), start, block)
        if f"{layer}.bias" in self._shapes:
            yield Place(f"{layer}.bias", 0, start, block)

    def _input(self, layer: str, block: int = 1) -> Place:
        return Place(f"{layer}.weight", self._axis(layer, outputs=False), 0, block)


def _chain(shapes: Shapes) -> Iterator[Units]:
    """Yield the hidden layers of a plain network: modules ordered by the numbers in their names, each feeding the next.

    Modules with vectors only (norms) scale the units before them.
    """
    modules = sorted(dict.fromkeys(name.rpartition(".")[0] for name in shapes), key=_natural)
    if len({re.sub(r"\d+", "0", module) for module in modules}) != 1 or any(len(s) > 2 for s in shapes.values()):
        return
    members = {module: [name for name in shapes if name.rpartition(".")[0] == module] for module in modules}
    linear = [module for module in modules if any(len(shapes[name]) == 2 for name in members[module])]
    for first, second in itertools.pairwise(linear):
        behind = modules[modules.index(first) : modules.index(second)]
        places = [Place(name, 0) for module in behind for name in members[module]]
        count = shapes[f"{first}.weight"][0]
        misfit = next((p.tensor for p in places if shapes[p.tensor][:1] != (count,)), None)
        if misfit is not None or shapes[f"{second}.weight"][1] != count:
            name = misfit or f"{second}.weight"
            raise AlignError(f"Not a chain of linear layers: {first} has {count} outputs, {name} is {shapes[name]}.")
        yield Units(f"{first}: hidden units", count, (*places, Place(f"{second}.weight", 1)))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
