"""Locations of a checkpoint's tensors in a network, which transformers may rename and fuse on loading.

transformers' own list of conversions is applied to names and shapes, without a copy of it here. The result is
verified with the weights each time a model is loaded (`prove`).
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.errors import REFUSED, EvomergeError
from evomerge.merging.models.network import TRAINING_ONLY

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

#: Buffers in older checkpoints that transformers ignores for any architecture.
_OLD_BUFFERS = re.compile(r"rotary_emb\.inv_freq|(?:^|\.)position_ids$")


class ModelError(EvomergeError):
    """A model that transformers cannot keep resident."""

    exit_code = REFUSED


@dataclass(frozen=True)
class Conversion:
    """Tensors of a checkpoint that transformers converts: stacked, concatenated, split, transposed.

    sources: names in the checkpoint, each with the pattern it matched, in transformers' order. key: the first resulting
    tensor. targets: all resulting tensors.
    """

    transform: Any
    key: str
    sources: tuple[tuple[str, str], ...]
    targets: tuple[str, ...] = ()

    def __call__(self, tensors: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
        """Return the network's tensors made from these of the checkpoint. Raises whatever transformers raises."""
        transform = deepcopy(self.transform)
        for name, pattern in self.sources:
            transform.add_tensor(self.key, name, pattern, tensors[name])
        made = transform.convert(self.key, model=network, config=network.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True)
class Loading:
    """The mapping of a checkpoint's tensors into a network.

    renamed: name in the checkpoint -> in the network. converted: the others that the network has. idle: tensors that
    transformers knows and ignores. missing: optional parameters that this checkpoint lacks.
    """

    renamed: Mapping[str, str]
    converted: tuple[Conversion, ...]
    idle: tuple[str, ...]
    missing: tuple[str, ...]


def find_places(network: Any, shapes: Shapes, learned: Callable[[str], bool], label: str) -> Loading:
    """Match a checkpoint's names and shapes with a network's; neither needs weights (meta device).

    learned: whether a tensor of the checkpoint must have a place; computed buffers need none. label: name of the
    checkpoint, for errors. Raises ModelError for tensors without a place or of another shape, and for parameters
    that transformers would fill with random numbers.
    """
    live: dict[str, Tensor] = network.state_dict()
    from evomerge.merging.models.network_names import LoadingRules  # takes seconds, also without a network

    match = LoadingRules(network, live).match(shapes)
    renamed, homeless = match.renamed, match.homeless
    converted = [Conversion(match.converters[found[0][1]], key, found) for key, found in match.converted.items()]
    kind = f"transformers' {type(network).__name__}"
    ignored = _known_to_be_idle(network)
    unknown = [name for name in homeless if learned(name) and not ignored(name) and not ignored(homeless[name])]
    if unknown:
        raise ModelError(
            f"{label}: {len(unknown)} tensors have no place in {kind}: {_some(unknown)}. transformers would ignore "
            "them: does config.json (`architectures`) name the class that the weights were saved from?"
        )
    made = [_converted_shapes(conversion, network, shapes, label) for conversion in converted]
    converted = [Conversion(c.transform, c.key, c.sources, tuple(m)) for c, m in zip(converted, made, strict=True)]
    becomes = {target: shape for one in made for target, shape in one.items()}
    becomes |= {target: tuple(shapes[name]) for name, target in renamed.items()}
    misfits = [
        f"{target} {shape}, expected {tuple(live[target].shape)}" if target in live else f"{target}, which it lacks"
        for target, shape in becomes.items()
        if target not in live or tuple(live[target].shape) != shape
    ]
    if misfits:
        raise ModelError(f"{label}: {len(misfits)} tensors do not fit {kind}: {_some(misfits)}.")
    return Loading(
        renamed, tuple(converted), tuple(name for name in homeless if learned(name)), _missing(network, becomes, label)
    )


def _converted_shapes(conversion: Conversion, network: Any, shapes: Shapes, label: str) -> dict[str, Shape]:
    hollow = {name: torch.empty(shapes[name], device="meta") for name, _ in conversion.sources}
    try:
        made = conversion(hollow, network)
    except (ValueError, RuntimeError, IndexError, KeyError, AttributeError, TypeError) as error:
        names = [name for name, _ in conversion.sources]
        raise ModelError(
            f"{label}: transformers cannot make {conversion.key} from {_some(names)}: {str(error).splitlines()[0]}"
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in made.items()}


def _known_to_be_idle(network: Any) -> Callable[[str], bool]:
    patterns = [re.compile(pattern) for pattern in network._keys_to_ignore_on_load_unexpected or ()]
    return lambda name: any(pattern.search(name) for pattern in (*patterns, _OLD_BUFFERS))


def _missing(network: Any, filled: Collection[str], label: str) -> tuple[str, ...]:
    """Return parameters that the checkpoint does not fill. Raises ModelError for required ones."""
    ties: Mapping[str, str] = network.all_tied_weights_keys
    shared = {source for target, source in ties.items() if target in filled or source in filled}
    lacks = [
        name
        for name, _ in network.named_parameters(remove_duplicate=False)
        if name not in filled and name not in shared and ties.get(name) not in shared
    ]
    optional = [re.compile(pattern) for pattern in (*(network._keys_to_ignore_on_load_missing or ()), TRAINING_ONLY)]
    needed = [name for name in lacks if not any(pattern.search(name) for pattern in optional)]
    if needed:
        raise ModelError(
            f"{label} lacks {len(needed)} parameters of transformers' {type(network).__name__}: {_some(needed)}. "
            "transformers would fill them with random numbers: does config.json (`architectures`) name the class that "
            "the weights were saved from?"
        )
    return tuple(lacks)


def training_only(name: str) -> bool:
    """Return whether a parameter is used in training only, judging by its name."""
    return TRAINING_ONLY.search(name) is not None


def untie(network: Any, loading: Loading) -> None:
    """Give tensors that the checkpoint stores twice separate memory, although they are equal now and the
    configuration ties them: a merge may make them differ, and transformers does not tie unequal ones.
    """
    filled = {*loading.renamed.values(), *(name for one in loading.converted for name in one.targets)}
    ties: Mapping[str, str] = network.all_tied_weights_keys
    owners = set()
    for name in dict.fromkeys((*ties.values(), *ties)):
        if name not in filled:
            continue
        tensor = network.get_parameter_or_buffer(name)
        if id(tensor) in owners:
            parent, _, own = name.rpartition(".")
            tensor = nn.Parameter(tensor.detach().clone(), requires_grad=False)
            setattr(network.get_submodule(parent), own, tensor)
        owners.add(id(tensor))


class Staged:
    """Tensors of a checkpoint that are not views of the network's; `settle` converts them into the network's."""

    def __init__(self, conversion: Conversion, network: Any, shapes: Shapes, live: Mapping[str, Tensor]) -> None:
        self._conversion = conversion
        self._network = network
        self._live = {name: live[name] for name in conversion.targets}
        like = live[conversion.key]
        self.tensors = {
            name: torch.zeros(shapes[name], dtype=like.dtype, device=like.device) for name, _ in conversion.sources
        }
        self._seen: list[int] = []

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """Name -> live tensor of the network that is made from the tensors here."""
        return self._live

    @cached_property
    def rearranges(self) -> bool:
        """Whether every element of the network's tensors is an element of those here, unchanged."""
        flat = torch.cat([tensor.reshape(-1) for tensor in self.tensors.values()])
        return all(torch.equal(value.reshape(-1), flat[self._origins[name]]) for name, _, value in self.made())

    def pull_back(self, target: str, gradient: Tensor) -> dict[str, Tensor]:
        """Return the gradients of the tensors here, given the one of a tensor of the network made from them."""
        sizes = [tensor.numel() for tensor in self.tensors.values()]
        flat = torch.zeros(sum(sizes), dtype=gradient.dtype, device=gradient.device)
        flat.index_add_(0, self._origins[target], gradient.reshape(-1))
        parts = zip(self.tensors.items(), torch.split(flat, sizes), strict=True)
        return {name: part.view(tensor.shape) for (name, tensor), part in parts}

    @cached_property
    def _origins(self) -> dict[str, Tensor]:
        """Return target -> place of each of its elements in the tensors here, one after the other and flat."""
        places, start = {}, 0
        for name, tensor in self.tensors.items():
            end = start + tensor.numel()
            places[name] = torch.arange(start, end, device=tensor.device).view(tensor.shape)
            start = end
        return {name: value.reshape(-1) for name, value in self._conversion(places, self._network).items()}

    def made(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, live tensor, and the value converted from the tensors here."""
        for name, value in self._conversion(self.tensors, self._network).items():
            yield name, self._live[name], value

    def settle(self) -> None:
        """Write to the network what was written here since the last call."""
        versions = [tensor._version for tensor in self.tensors.values()]
        if versions != self._seen:
            for _, place, value in self.made():
                place.copy_(value)
            self._seen = versions


def place_tensors(network: Any, loading: Loading, shapes: Shapes) -> tuple[dict[str, Tensor], tuple[Staged, ...]]:
    """Return the live tensors by the checkpoint's names: views of the network's if possible, else staged ones.

    Idle ones are excluded, since no network has them.
    """
    live: dict[str, Tensor] = network.state_dict()
    places = {name: live[target] for name, target in loading.renamed.items()}
    staged = []
    known: dict[Any, list[_View] | None] = {}
    for conversion in loading.converted:
        sources = [(pattern, tuple(shapes[name])) for name, pattern in conversion.sources]
        # All blocks of a network are converted in the same way.
        key = (*sources, *(tuple(live[name].shape) for name in conversion.targets))
        if key not in known:
            known[key] = _trace(conversion, network, shapes)
        views = known[key]
        if views is None or not all(live[name].is_contiguous() for name in conversion.targets):
            staged.append(Staged(conversion, network, shapes, live))
            places |= staged[-1].tensors
            continue
        for (name, _), view in zip(conversion.sources, views, strict=True):
            whole = live[conversion.targets[view.target]]
            places[name] = whole.as_strided(shapes[name], view.strides, whole.storage_offset() + view.offset)
    return places, tuple(staged)


def prove(
    places: Mapping[str, Tensor], staged: Sequence[Staged], read: Mapping[str, Callable[[], Tensor]], label: str
) -> None:
    """Compare freshly loaded weights with the file's, tensor by tensor. Raises ModelError if they differ.

    read: name in the file -> its values; staged tensors receive them.
    """
    ours = {name for one in staged for name in one.tensors}
    wrong = []
    for name, values in read.items():
        place, wanted = places[name], values()
        if name in ours:
            place.copy_(wanted)
        elif not torch.equal(place, wanted.to(device=place.device, dtype=place.dtype)):
            wrong.append(name)
    for one in staged:
        wrong += [name for name, place, value in one.made() if not torch.equal(place, value)]
        one.settle()
    if wrong:
        raise ModelError(
            f"{label}: {len(wrong)} tensors are not where transformers' conversions put them: {_some(wrong)}. This is "
            "a bug in evomerge or in this version of transformers: please report it with the model's config.json."
        )


@dataclass(frozen=True)
class _View:
    """A tensor of a checkpoint as a strided view of a converted tensor, in elements."""

    target: int
    offset: int
    strides: tuple[int, ...]


def _trace(conversion: Conversion, network: Any, shapes: Shapes) -> list[_View] | None:
    """Follow marked elements of every source through a conversion; None if one is not a view of a result."""
    marks: dict[int, tuple[int, Shape]] = {}  # mark -> (source, index of the element in it)
    probes = {}
    for number, (name, _) in enumerate(conversion.sources):
        points = _points(shapes[name])
        probes[name] = torch.zeros(math.prod(shapes[name]), dtype=torch.int32)
        for point in points:
            marks[len(marks) + 1] = (number, point)
            probes[name][_flat(point, _row_major(shapes[name]))] = len(marks)
        probes[name] = probes[name].view(shapes[name])
    made = conversion(probes, network)
    found: dict[tuple[int, Shape], tuple[int, int]] = {}
    for target, name in enumerate(conversion.targets):
        flat = made[name].reshape(-1)
        for at in flat.nonzero().flatten().tolist():
            found[marks[int(flat[at])]] = (target, at)
    views = [_view(number, shapes[name], found) for number, (name, _) in enumerate(conversion.sources)]
    return None if None in views else [view for view in views if view is not None]


def _view(number: int, shape: Shape, found: Mapping[tuple[int, Shape], tuple[int, int]]) -> _View | None:
    """Return the view that explains where every marked element of a source was found."""
    points = _points(shape)
    if any((number, point) not in found for point in points):
        return None
    target, offset = found[number, points[0]]
    strides = []
    for dim, size in enumerate(shape):
        unit = tuple(int(other == dim) for other in range(len(shape)))
        strides.append(found[number, unit][1] - offset if size > 1 else 1)
    expected = {point: (target, offset + _flat(point, strides)) for point in points}
    if min(strides, default=1) < 1 or any(found[number, point] != place for point, place in expected.items()):
        return None
    return _View(target, offset, tuple(strides))


def _points(shape: Shape) -> list[Shape]:
    """Return elements that tell a view from other rearrangements: first, last, next in each dimension, some between."""
    units = [tuple(int(other == dim) for other in range(len(shape))) for dim, size in enumerate(shape) if size > 1]
    between = [tuple(size * part // 7 for size in shape) for part in range(1, 7)]
    return list(dict.fromkeys([(0,) * len(shape), *units, *between, tuple(size - 1 for size in shape)]))


def _row_major(shape: Shape) -> Shape:
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def _flat(point: Sequence[int], strides: Sequence[int]) -> int:
    return sum(index * stride for index, stride in zip(point, strides, strict=True))


def _some(names: Sequence[str]) -> str:
    return f"{json.dumps(list(names[:5]))[1:-1]}{', ...' if len(names) > 5 else ''}"
