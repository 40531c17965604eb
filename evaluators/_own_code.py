"""Python modules named by search files: the folders they are loaded from, and the error if one is missing."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

#: Folders to search for modules, in addition to Python's own path.
_folders: list[str] = []


def look_in(folders: Sequence[str | Path]) -> None:
    """Search these folders for modules too, after Python's own path, so that they shadow nothing installed."""
    for folder in map(str, folders):
        if folder not in _folders:
            _folders.append(folder)
        if folder not in sys.path:
            sys.path.append(folder)
            importlib.invalidate_caches()


def load_module(name: str) -> ModuleType:
    """Import a module. Raises ImportError, which lists the folders searched if it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = name.partition(".")[0]
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that this one imports
        looked = f"in {', '.join(_folders)}, nor on" if _folders else "on"
        raise ModuleNotFoundError(
            f"No module named {error.name!r} {looked} Python's path. Put {top}.py next to the search file, name "
            "its folder there (`code: FOLDER`), or set PYTHONPATH",
            name=error.name,
        ) from error
