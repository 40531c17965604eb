"""The lists of example ids of a study: each is stored once, and scores refer to it by its number."""

from collections.abc import Mapping
from itertools import compress, pairwise
from typing import Any

import numpy as np

from evomerge.study.packing import packed, unpacked

#: A list is stored as bits over a longer one, unless that is more than this many times as long: an id takes 19 bytes.
_WORTH = 100


class ExampleLists:
    """Lists of ids in the order of their records; a part of a task's longest list is stored as bits over that one."""

    def __init__(self) -> None:
        self._lists: list[tuple[str, ...]] = []
        self._numbers: dict[tuple[str, tuple[str, ...]], int] = {}
        self._longest: dict[str, int] = {}
        self._rows: dict[str, dict[str, int]] = {}

    def __getitem__(self, number: int) -> tuple[str, ...]:
        return self._lists[number]

    def __len__(self) -> int:
        return len(self._lists)

    def number(self, task: str, ids: tuple[str, ...]) -> int | None:
        """Return the number of a list; None if it is not stored yet."""
        return self._numbers.get((task, ids))

    def to_dict(self, task: str, ids: tuple[str, ...]) -> dict[str, Any]:
        """Return the data of a new list's record."""
        whole = self._longest.get(task)
        if whole is None or len(self._lists[whole]) > _WORTH * len(ids):
            return {"task": task, "ids": list(ids)}
        if task not in self._rows:
            self._rows[task] = {name: row for row, name in enumerate(self._lists[whole])}
        rows = [self._rows[task].get(name, -1) for name in ids]
        if rows[0] < 0 or any(after <= before for before, after in pairwise(rows)):
            return {"task": task, "ids": list(ids)}
        chosen = np.zeros(len(self._lists[whole]))
        chosen[rows] = 1.0
        return {"task": task, "of": whole, "rows": packed(chosen)}

    def add(self, data: Mapping[str, Any]) -> None:
        """Add the list of a record."""
        task, number = data["task"], len(self._lists)
        if "of" in data:
            whole = self._lists[data["of"]]
            ids = tuple(compress(whole, unpacked(data["rows"])))
        else:
            ids = tuple(data["ids"])
            longest = self._longest.get(task)
            if longest is None or len(ids) > len(self._lists[longest]):
                self._longest[task] = number
                self._rows.pop(task, None)
        self._numbers[task, ids] = number
        self._lists.append(ids)
