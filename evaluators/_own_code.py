"""Python modules that search files name: where they are looked for, and what to do where there is none."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

#: Folders that modules are looked for in, beside Python's own path.
_folders: list[str] = []


def look_in(folders: Sequence[str | Path]) -> None:
    """Look for modules in these folders too, after Python's own path: they shadow nothing that is installed."""
    for folder in map(str, folders):
        if folder not in _folders:
            _folders.append(folder)
        if folder not in sys.path:
            sys.path.append(folder)
            importlib.invalidate_caches()


def load_module(name: str) -> ModuleType:
    """Import a module. Raises ImportError, which says for a missing one where it was looked for."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = name.partition(".")[0]
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that this one imports
        looked = f"in {', '.join(_folders)}, nor on" if _folders else "on"
        raise ModuleNotFoundError(
            f"No module named {error.name!r} {looked} Python's path. Put {top}.py beside the search file, name "
            "its folder there (`code: FOLDER`), or set PYTHONPATH",
            name=error.name,
        ) from error
