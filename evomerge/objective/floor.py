"""Constraints on a task: one type and one parser for `keep` in a search file and for `--keep`.

`-1pt` and `-2%` are measured from the best parent: 0.01 below its score, in the task's unit, and 2 % of its score
below it; `98%` is a share of its score. A number alone is how far a task may fall in a search file (`keep: 0.01`), and
a score in `--keep 'chat>=0.71'`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

_VALUE = re.compile(r"(?P<amount>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>pt|%)?")

#: Percentages below this one may be meant as a fall; there only a fall is read, with its minus.
_DOUBTFUL = 50


@dataclass(frozen=True)
class Floor:
    """The lowest result that a merge may have on a task.

    Args:
        amount: Value in the sense of `unit`; a negative fall is a lead over the best parent.
        unit: `fall`, how far it may fall below the best parent in the task's unit; `share`, how much it keeps of that
            parent's score, 0.98 of it, or 1.02 times it where less is better; `score`, the score itself; or `flips`,
            the share of examples that this parent may get right and the merge wrong.
    """

    amount: float
    unit: Literal["fall", "share", "score", "flips"] = "fall"

    def allowed(self, best: float) -> float:
        """Return the allowed fall below the best parent, in the task's unit. best: that parent's score or loss."""
        return (1 - self.amount) * abs(best) if self.unit == "share" else self.amount

    def limit(self, best: float, sign: float) -> float:
        """Return the required score. best: the best parent's score. sign: -1 where less is better, else 1."""
        return self.amount if self.unit == "score" else best - sign * self.allowed(best)

    @property
    def data(self) -> float | str | dict[str, str]:
        """The fall, share or flips as written in a search file: 0.01, `98%` or `{flips: 1%}`."""
        if self.unit == "flips":
            return {"flips": f"{100 * self.amount:.12g}%"}
        if self.unit != "share":
            return self.amount
        kept = 100 * self.amount
        return f"{kept:.12g}%" if kept >= _DOUBTFUL else f"-{100 - kept:.12g}%"

    def text(self, sign: float) -> str:
        """Format: `-0.01` from the best parent, `+2` where less is better, `98%`, or `flips 1%`."""
        if self.unit == "flips":
            return f"flips {100 * self.amount:.12g}%"
        return str(self.data) if self.unit == "share" else f"{-sign * self.amount:+g}" if self.amount else "0"


def hundredths(amount: float) -> float:
    """Convert points or percent to a number: 1 point is 0.01."""
    return amount / 100


def read_floor(text: str, sign: float = 1.0) -> Floor | None:
    """Parse a constraint, where a number alone is a score; None for other texts.

    sign: -1 where less is better, so that `+1pt` is a fall; in a search file a fall has a minus even there.
    """
    found = _VALUE.fullmatch(text.strip())
    if found is None:
        return None
    amount, signed = float(found["amount"]), found["amount"][0] in "+-"
    if found["unit"] == "pt":
        return Floor(-sign * hundredths(amount))
    if found["unit"] == "%":
        unsigned = amount if sign > 0 else 200 - amount  # 101 % of a loss is 1 % more than the best parent's
        return Floor(hundredths(100 + sign * amount if signed else unsigned), "share")
    return Floor(amount, "score")


def read_keep(data: Any) -> Floor | dict[str, Floor]:
    """Parse `keep` of a search file: `{task: 0.01}`, or one value for all tasks. Raises ValueError."""
    if not isinstance(data, Mapping) or not data:
        return _read_fall(data)
    return {task: _read_fall_on(task, value, data) for task, value in data.items()}


def keep_data(keep: Floor | Mapping[str, Floor]) -> Any:
    """Return `keep` as data that `read_keep` reads back."""
    return {task: floor.data for task, floor in keep.items()} if isinstance(keep, Mapping) else keep.data


def _read_fall_on(task: str, value: Any, data: Mapping[str, Any]) -> Floor:
    try:
        return _read_fall(value)
    except ValueError as error:
        if data.keys() == {"flips"}:  # of no task, unless one has this name
            raise ValueError(f"flips are limited by task, as in {{sort: {{flips: 1%}}}}; got {dict(data)!r}") from error
        raise ValueError(f"{task}: {error}") from error


def _read_fall(data: Any) -> Floor:
    if isinstance(data, Mapping) and data.keys() == {"flips"}:
        return _read_flips(data["flips"])
    if type(data) in (int, float) and data >= 0:
        return Floor(float(data))
    floor = read_floor(data) if isinstance(data, str) and "+" not in data else None
    if floor is None:
        raise ValueError(
            "expected how far a merge may fall below the best parent, at least 0, such as 0.01 or -1pt, what it keeps "
            f"of the parent's score, such as 98%, or {{flips: 1%}}, the answers that it may lose; got {data!r}"
        )
    if floor.unit != "share":
        return Floor(abs(floor.amount))
    if not 0 <= floor.amount <= 1:
        raise ValueError(f"a merge keeps from 0% to 100% of the best parent's score; got {data!r}")
    kept = 100 * floor.amount
    if kept < _DOUBTFUL and "-" not in data:
        raise ValueError(
            f"{data!r} keeps only {kept:g} % of the best parent's score; for a fall of it write -{data}, "
            f"and if it is meant, -{100 - kept:g}%"
        )
    return floor


def _read_flips(data: Any) -> Floor:
    found = _VALUE.fullmatch(data.strip()) if isinstance(data, str) else None
    share = hundredths(float(found["amount"])) if found is not None and found["unit"] == "%" else data
    if type(share) not in (int, float) or not 0 <= share < 1:
        raise ValueError(
            "flips is the share of examples that the best parent may get right and a merge wrong, from 0% to below "
            f"100%, such as 1% or 0.01; got {data!r}"
        )
    return Floor(float(share), "flips")
