"""`checkpoints` of a search file: the checkpoints of one training run as base and experts, in training order."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.recipe.model_names import resolve_path

#: Name of the last checkpoint among the models of a search.
BASE = "base"


def run_order(paths: Sequence[str]) -> list[str]:
    """Return paths by the numbers in their names: `checkpoint-900` before `checkpoint-1000`."""
    return sorted(paths, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", Path(path).name)])


def expanded(given: Any, folder: Path) -> list[str]:
    """Return the checkpoints of a pattern in training order, or those of a list in its order, as absolute paths.

    Raises ValueError for what is neither, and for fewer than two.
    """
    if isinstance(given, str) and given:
        pattern = Path(resolve_path(given, folder))
        paths = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        found = run_order([str(path) for path in paths if path.is_dir() or path.suffix == ".safetensors"])
    elif isinstance(given, list) and all(isinstance(path, str) and path for path in given):
        found = [resolve_path(path, folder) for path in given]
    else:
        raise ValueError(f"expected a pattern such as RUN/checkpoint-*, or a list of paths; got {given!r}")
    if len(found) < 2:
        there = f"only {Path(found[0]).name}" if found else "no folder and no .safetensors file"
        raise ValueError(f"needs at least two checkpoints; {given!r} names {there}")
    names = [Path(path).name for path in found]
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"needs checkpoints with distinct names; {twice!r} appears twice")
    if BASE in names[:-1]:
        raise ValueError(f"has a checkpoint named {BASE!r}, which is what the last checkpoint is called; rename it")
    return found


def with_models(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the contents of a search file with the last of its checkpoints as the base and the others as experts.

    Raises ValueError like `expanded`, and where the file names other models besides.
    """
    paths = expanded(data["checkpoints"], folder)
    models: dict[str, Any] = {"base": paths[-1], "experts": {Path(path).name: path for path in paths[:-1]}}
    for key, value in models.items():
        if key in data and data[key] != value:
            raise ValueError(f"takes the place of `base` and `experts`; remove {key!r}, or the checkpoints")
    return {**data, **models, "checkpoints": paths}
