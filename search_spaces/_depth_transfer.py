"""Coefficients found on a model with another number of blocks, by relative depth."""

from collections.abc import Mapping

import numpy as np

from search_spaces._layout import Layout, block_of, in_block
from search_spaces._table import CoefficientTable, FloatArray, SpaceError


def carried_over(table: CoefficientTable, layout: Layout) -> CoefficientTable:
    """Return the coefficients of a table for a model whose stacks have other numbers of blocks.

    Block i of n gets what is at i / (n - 1) of the way through the table's stack, interpolated linearly between the two
    nearest blocks there; tensors outside blocks keep theirs.

    Args:
        table: Coefficients with the names of the other model's tensors.
        layout: The tensors to merge.

    Returns:
        The table, with a group for each tensor of the layout.

    Raises:
        SpaceError: The numbers of blocks are equal, or a tensor has no counterpart.
    """
    known = {name for members in table.groups.values() for name in members}
    theirs, ours = _lengths(known), _lengths(layout.names)
    if theirs.keys() != ours.keys() or theirs == ours:
        raise SpaceError(
            f"The table's stacks of blocks are {_text(theirs)}, those of the model {_text(ours)}: expected the same "
            "stacks with another number of blocks."
        )
    rows = [_row(table, known, name, theirs, ours) for name in layout.names]
    values = {parameter: np.stack([row[parameter] for row in rows]) for parameter in table.values}
    return CoefficientTable({name: (name,) for name in layout.names}, values)


def _row(
    table: CoefficientTable, known: set[str], name: str, theirs: Mapping[str, int], ours: Mapping[str, int]
) -> dict[str, FloatArray]:
    """Return the coefficients of one tensor, parameter -> (width,)."""
    place = block_of(name)
    if place is None:
        lower = upper = name
        share = 0.0
    else:
        stack, number = place
        at = number * (theirs[stack] - 1) / max(1, ours[stack] - 1)
        below = min(int(at), theirs[stack] - 1)
        share = at - below
        lower, upper = in_block(name, below), in_block(name, min(below + 1, theirs[stack] - 1))
    missing = next((each for each in (lower, upper) if each not in known), None)
    if missing is not None:
        raise SpaceError(f"The table has no coefficients for {missing!r}, the counterpart of {name!r}.")
    first, second = table.at(lower), table.at(upper)
    return {p: first[p] if share == 0.0 else (1.0 - share) * first[p] + share * second[p] for p in table.values}


def _lengths(names: set[str] | tuple[str, ...]) -> dict[str, int]:
    """Return the number of blocks of each stack, by the prefix of its tensors' names."""
    found: dict[str, int] = {}
    for place in map(block_of, names):
        if place is not None:
            found[place[0]] = max(found.get(place[0], 0), place[1] + 1)
    return found


def _text(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{stack or 'the only one'} ({count})" for stack, count in sorted(lengths.items())) or "none"
