"""Data flow: a path through the blocks of several models (Akiba et al., 2024). https://arxiv.org/abs/2403.13187."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces.base import (
    CoefficientTable,
    Design,
    FloatArray,
    Layout,
    Parameter,
    Path,
    SearchSpace,
    SpaceError,
    Step,
)

#: A slot is on above the middle between 0 and 1. The range leaves room on both sides, so that a search that starts at
#: 0 and 1 begins halfway between the threshold and the ends of the cube.
_SLOT = Parameter("slot", 0.0, -0.5, 1.5, per_input=False)
_THRESHOLD = 0.5
_SCALE = Parameter("scale", 1.0, 0.5, 1.5, per_input=False)
#: Where depth up-scaling joins two models: without the last and the first quarter of the blocks
#: (8 of 32, Kim et al., 2023). https://arxiv.org/abs/2312.15166
_CUT = 4


class Dataflow(SearchSpace):
    """A slot, on or off, for every block of every model: `slot[math.block.3]`; the blocks that are on form the path.

    All blocks are in one list, those of the base first, then those of each expert; with `repetitions`, the whole list
    follows again: `slot[2.math.block.3]`. A path takes the blocks that are on, in the order of this list. So any block
    can come after any other if there are enough repetitions. Coordinates above the middle of the cube are on.

    `scale[math.block.3]` multiplies the input of a block. It has an effect only where the block and one before it are
    on, and is 1 in all other tables. The paper has a matrix instead, with one scale for each pair of blocks. A path
    visits a slot once, so both describe the same candidates, here with 2 coordinates per slot.

    Use it with `method: passthrough`. Weights are not merged, and candidates are exported as ordinary checkpoints:
    repeated blocks are written twice, and scales are folded into `o_proj` and `down_proj`. The search starts at the
    blocks of the model that has the ends, with all scales 1. It has no gradients.

    `ranges`, `freeze`, `tie` and `start` are as in every space; only `scale` has a range, [0.5, 1.5] by default, which
    must be positive and include 1. `freeze: {"base.block.0": {slot: 1}}` keeps a block in every path.

    Args:
        repetitions: How many times the list of blocks is passed through, at least 1.
        max_length: Largest number of blocks of a path; of more, those with the largest coordinates are kept. By
            default, all slots.
        scales: Whether the scales are searched; otherwise they are 1.
        ends: Model whose embeddings, final norm and head every candidate has; by default the base.
    """

    arranges_blocks = True

    def __init__(
        self,
        layout: Layout,
        inputs: Sequence[str],
        parameters: Sequence[Parameter],
        *,
        repetitions: int = 1,
        max_length: int | None = None,
        scales: bool = True,
        ends: str | None = None,
        ranges: Mapping[str, Sequence[float]] | None = None,
        freeze: Mapping[str, Any] | None = None,
        tie: Sequence[Sequence[str]] = (),
        start: CoefficientTable | None = None,
    ) -> None:
        names = [parameter.name for parameter in parameters]
        if names != [_SCALE.name]:
            raise SpaceError(
                f"dataflow takes blocks as they are, which is `method: passthrough`; this method has the parameters "
                f"{', '.join(names) or 'none'}. Write `method: passthrough`, or choose another space."
            )
        if not isinstance(scales, bool):
            raise SpaceError(
                f"scales needs true or false; it is {scales!r}. Their range is `ranges: {{scale: [0.5, 2]}}`."
            )
        if ends is not None and ends not in inputs:
            raise SpaceError(f"ends needs the name of a model ({', '.join(inputs)}); it is {ends!r}.")
        self._slots = tuple(_split(name) for name in layout.names) * _count("repetitions", repetitions)
        self._ends = inputs[0] if ends is None else ends
        self._most = len(self._slots) if max_length is None else _count("max_length", max_length)
        super().__init__(
            _repeated(layout, repetitions),
            inputs,
            (_SLOT, _SCALE),
            ranges=_checked_ranges(dict(ranges or {}), scales=scales),
            freeze=freeze,
            tie=tie,
            start=start,
        )
        self._check_values()

    def _design(self, layout: Layout) -> Design:
        first = [model == self._ends and n < self._n_blocks for n, (model, _) in enumerate(self._slots)]
        start = {_SLOT.name: np.array(first, dtype=np.float64)[:, None]}
        return Design(
            {name: (name,) for name in layout.names}, start=start, settle=self._settle, switches=(_SLOT.name,)
        )

    def path(self, table: CoefficientTable) -> Path:
        """Return the path of a table of this space."""
        slots, scales = (table.values[name][:, 0] for name in (_SLOT.name, _SCALE.name))
        steps = [Step(*self._slots[n], float(scales[n])) for n in np.flatnonzero(slots > _THRESHOLD)]
        return Path(tuple(steps), self._ends)

    def landmarks(self) -> dict[str, FloatArray]:
        """Return two kinds of paths, as far as they are in the space.

        `blocks:math` has all blocks of one model between the ends, which tells whether a model depends on its own
        embeddings and head. `stack:math` is depth up-scaling (https://arxiv.org/abs/2312.15166): the model of the ends
        without its last quarter of blocks, then another model without its first quarter.
        """
        blocks = {name: [slot for slot in self._slots[: self._n_blocks] if slot[0] == name] for name in self.inputs}
        cut = {name: max(1, len(own) // _CUT) for name, own in blocks.items()}
        wanted = {f"blocks:{name}": own for name, own in blocks.items()}
        lower = blocks[self._ends][: -cut[self._ends]]
        wanted |= {f"stack:{name}": [*lower, *own[cut[name] :]] for name, own in blocks.items() if name != self._ends}
        found = {label: self._place(slots) for label, slots in wanted.items()}
        return {label: x for label, x in found.items() if x is not None}

    @property
    def _n_blocks(self) -> int:
        return len(dict.fromkeys(self._slots))

    def _place(self, path: Sequence[tuple[str, int]]) -> FloatArray | None:
        """Return the point of a path in the first repetition, with scales 1; None if it is not in the space."""
        on = np.array([[float(n < self._n_blocks and slot in path)] for n, slot in enumerate(self._slots)])
        table = CoefficientTable(self._groups, {_SLOT.name: on, _SCALE.name: np.ones_like(on)})
        try:
            return self.encode(table)
        except SpaceError:
            return None

    def _settle(self, values: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return the values that stand for a path: slots 0 or 1, and scales 1 where they have no effect."""
        slots, scales = values[_SLOT.name][:, 0], values[_SCALE.name][:, 0]
        free = self._searched(_SLOT.name)
        on = slots > _THRESHOLD
        if not on.any():
            on[free[np.argmax(slots[free])]] = True
        surplus = int(on.sum()) - self._most
        if surplus > 0:
            able = free[on[free]]
            on[able[np.argsort(slots[able], kind="stable")[:surplus]]] = False
        active = on.copy()
        active[np.argmax(on)] = False
        return {
            _SLOT.name: on.astype(np.float64)[:, None],
            _SCALE.name: np.where(active, scales, 1.0)[:, None],
        }

    def _searched(self, parameter: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        groups = self.searched.get(parameter, ())
        return np.array([row for row, group in enumerate(self.groups) if group in groups], dtype=np.int64)

    def _check_values(self) -> None:
        """Raise SpaceError for frozen slots that leave no path, and for scales that cannot be exported."""
        scale = next(c.parameter for c in self._columns if c.parameter.name == _SCALE.name)
        if scale.low <= 0:
            raise SpaceError(f"Scales must be positive to be exported as weights; their range begins at {scale.low:g}.")
        if not scale.low <= 1 <= scale.high:
            raise SpaceError(
                f"The range of scale must include 1, which a path's first block has; it is [{scale.low:g}, "
                f"{scale.high:g}]."
            )
        table = {column.parameter.name: column.origin[:, 0] for column in self._columns}
        free = self._searched(_SLOT.name)
        kept = np.delete(table[_SLOT.name], free) > _THRESHOLD
        if not len(free) and not kept.any():
            raise SpaceError("freeze turns every slot off; a path needs at least one block.")
        if kept.sum() > self._most:
            raise SpaceError(f"freeze keeps {kept.sum()} slots on, and max_length is {self._most}.")
        least = float(table[_SCALE.name].min())
        if least <= 0:
            raise SpaceError(f"Scales must be positive to be exported as weights; one is frozen at {least:g}.")


def _split(name: str) -> tuple[str, int]:
    """Split `math.block.3` into the model's name and the block's number."""
    model, _, number = name.rpartition(".block.")
    return model, int(number)


def _repeated(layout: Layout, repetitions: int) -> Layout:
    """Return the list of blocks so many times, numbered from 1 if there are several."""
    if repetitions == 1:
        return layout
    names = tuple(f"{turn}.{name}" for turn in range(1, repetitions + 1) for name in layout.names)
    return Layout(names, tuple(range(len(names))), layout.components * repetitions)


def _count(option: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpaceError(f"{option} needs a whole number of at least 1; it is {value!r}.")
    return value


def _checked_ranges(ranges: dict[str, Any], *, scales: bool) -> dict[str, Any]:
    if _SLOT.name in ranges:
        raise SpaceError(f"slot is on or off; remove its range {ranges[_SLOT.name]!r}. `freeze` fixes single slots.")
    if not scales:
        if _SCALE.name in ranges:
            raise SpaceError(f"scales is false, so scale is 1; remove its range {ranges[_SCALE.name]!r}.")
        return {**ranges, _SCALE.name: (1.0, 1.0)}
    return ranges
