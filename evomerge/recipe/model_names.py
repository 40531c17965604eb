"""Names of models: a local path, or a repository on the Hugging Face hub with its revision.

A text is a path if that path exists; otherwise `owner/name`, or `owner/name@revision`, is looked up on the hub.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluators._nearest import nearest
from evomerge.recipe.recipe import Input

#: Keys that define a model in files, besides its name: see `recipe.Input`.
MODEL_KEYS = ("path", "revision", "adapter", "statistics")
#: Default revision of a hub repository.
MAIN = "main"

_HUB = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
#: A model in a download cache of the Hugging Face hub.
_CACHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$")


def resolve_path(path: str, folder: Path) -> str:
    """Resolve a path in a file in `folder`: `~` is the home, and relative paths start at the folder."""
    return os.path.normpath(folder / Path(path).expanduser())


def near_path(text: str, folder: Path) -> str | None:
    """Return an existing path like one in a file in `folder` that does not exist, written in the same way.

    None if nothing in the innermost existing folder has a similar name.
    """
    written, missing = Path(text), Path(resolve_path(text, folder))
    for n_missing, parent in enumerate(missing.parents, 1):
        if n_missing > len(written.parts) or parent.is_file():
            return None
        if parent.is_dir():
            near = _near_name(written.parts[-n_missing], sorted(path.name for path in parent.iterdir()))
            if near is None:
                return None
            found, rest = (*written.parts[:-n_missing], near), written.parts[len(written.parts) - n_missing + 1 :]
            whole = Path(*found, *rest)
            return str(whole if Path(resolve_path(str(whole), folder)).exists() else Path(*found))
    return None


def _near_name(name: str, names: Iterable[str]) -> str | None:
    """Return the most similar of these names with the same suffix; that of `.yaml` is no similarity."""
    suffix = found if (found := Path(name).suffix)[1:].isalpha() else ""
    stems = {each.removesuffix(suffix): each for each in names if each.endswith(suffix) and not each.startswith(".")}
    near = nearest(name.removesuffix(suffix), stems)
    return None if near is None else stems[near]


def locate_name(text: str, folder: Path) -> tuple[str, str | None]:
    """Return (path, None) for a path in a file in `folder`, or (repository, revision) of the hub."""
    local = resolve_path(text, folder)
    found = None if _exists(local) else _HUB.fullmatch(text)
    return (local, None) if found is None else (found["name"], found["revision"] or MAIN)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name longer than file systems take
        return False


def named_input(name: str, text: str) -> Input:
    """Parse `MODEL`, `MODEL@REVISION` or `MODEL+ADAPTER` from a command line."""
    adapter = None
    if "+" in text and not _exists(str(Path(text).expanduser())):
        text, _, adapter = text.partition("+")
    path, revision = _typed(text)
    lora, lora_revision = (None, None) if adapter is None else _typed(adapter)
    return Input(name, path, revision, lora, adapter_revision=lora_revision)


def model_data(model: Input) -> str | dict[str, Any]:
    """Return a model in its shortest form for search files and recipes, without its name."""
    data: dict[str, Any] = {key: value for key in MODEL_KEYS if (value := getattr(model, key)) is not None}
    if model.adapter_revision is not None:
        data["adapter"] = {"path": model.adapter, "revision": model.adapter_revision}
    return model.path if data.keys() == {"path"} else data


def short_name(model: Input) -> str:
    """Return a model's default name: the last part of its path, for a file without the extension."""
    place = Path(model.adapter or model.path)
    if (model.adapter_revision if model.adapter else model.revision) is not None:
        return place.name
    place = place.absolute()
    return place.stem if place.is_file() else place.name


def published(model: Input) -> str:
    """Return a model's origin as published in a card: hub names unchanged, only the last part of local paths."""
    named = cached_by_name(model)
    parts = [named.path if named.revision else Path(named.path).resolve().name]
    if named.adapter is not None:
        parts.append(named.adapter if named.adapter_revision else Path(named.adapter).resolve().name)
    return " + ".join(parts)


def hub_name(path: str) -> tuple[str, str] | None:
    """Return repository and commit of a model in a download cache of the hub; None for any other path."""
    found = _CACHED.search(path)
    return None if found is None else (f"{found[1]}/{found[2]}", found[3])


def portable(model: Input, folder: Path | None) -> Input:
    """Name a model for a file in `folder`: hub repositories by name, paths relative to the folder.

    Such a file reveals no home folder: a path that would contain it begins with `~` instead. folder: None for text that
    may be put into any folder; then paths are absolute or begin with `~`.
    """
    changed = cached_by_name(model)
    if changed.revision is None:
        changed = replace(changed, path=relative_path(changed.path, folder))
    if changed.adapter is not None and changed.adapter_revision is None:
        changed = replace(changed, adapter=relative_path(changed.adapter, folder))
    if changed.statistics is not None:
        changed = replace(changed, statistics=relative_path(changed.statistics, folder))
    return changed


def cached_by_name(model: Input) -> Input:
    """Replace paths into a download cache of the hub by repository and commit."""
    path = hub_name(model.path) if model.revision is None else None
    adapter = hub_name(model.adapter) if model.adapter is not None and model.adapter_revision is None else None
    if path is not None:
        model = replace(model, path=path[0], revision=path[1])
    return model if adapter is None else replace(model, adapter=adapter[0], adapter_revision=adapter[1])


def relative_path(path: str, folder: Path | None) -> str:
    """Return a local path relative to a file in `folder`, see `portable`."""
    absolute, home = Path(os.path.normpath(Path(path).absolute())), Path.home()
    here = None if folder is None else Path(os.path.normpath(folder.absolute()))
    if absolute.is_relative_to(home) and (here is None or not here.is_relative_to(home)):
        return f"~/{absolute.relative_to(home).as_posix()}"
    return absolute.as_posix() if here is None else Path(os.path.relpath(absolute, here)).as_posix()


def _typed(text: str) -> tuple[str, str | None]:
    """Behave like `locate_name` in the working folder, but keep a local path as typed."""
    path, revision = locate_name(text, Path())
    return (text, None) if revision is None else (path, revision)
