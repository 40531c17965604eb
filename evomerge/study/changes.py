"""Differences between two configurations, in readable form."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.study.lines import StudyError

_ABSENT = "(not there)"
#: Task options that may change on resuming: one affects only the memory for scoring, the other which examples there
#: are, which are compared by themselves.
_FREE = re.compile(r"(tasks|report_only)\..+\.(batch_tokens|limit)")


class ConfigurationChanged(StudyError):
    """The study was created with another configuration. `differences`: "path.to.key: old -> new"."""

    def __init__(self, folder: Path, differences: tuple[str, ...]) -> None:
        listed = "".join(f"\n  {difference}" for difference in differences)
        super().__init__(
            f"The study in {folder} was created with another configuration:{listed}\n"
            "Revert the search file, or use another folder for the new search."
        )
        self.differences = differences


def differences(old: Any, new: Any, path: str = "") -> tuple[str, ...]:
    """Return a line "path.to.key: old -> new" per forbidden difference of leaves; `path` leads to `old` and `new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        parts = [differences(old.get(k, _ABSENT), new.get(k, _ABSENT), f"{path}.{k}" if path else k) for k in keys]
        return tuple(difference for part in parts for difference in part)
    return () if old == new or _FREE.fullmatch(path) else (f"{path}: {old} -> {new}",)
