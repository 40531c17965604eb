"""Where Python finds `evaluators` and `search_spaces`: always the ones that belong to this copy of evomerge.

In a checkout they are beside `evomerge`. A wheel keeps them in `evomerge/_packages`, so that an installation adds one
name to site-packages, and overwrites no other distribution that has a package of these generic names. The models of
`evomerge demo` are `evomerge.tiny_models` in a wheel, and `experiments/tiny_models` in a checkout.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGES = ("evaluators", "search_spaces")
#: Package with the models of the demo, and its place in a checkout.
TINY_MODELS, _TINY_MODELS = "evomerge.tiny_models", "experiments/tiny_models"
_EVOMERGE = Path(__file__).resolve().parent
_WHEEL = _EVOMERGE / "_packages"


def folder_of(name: str) -> Path:
    """Return the folder of one of the two packages, or of the models of the demo."""
    wheel = _WHEEL.is_dir()
    if name == TINY_MODELS:
        return _EVOMERGE / "tiny_models" if wheel else _EVOMERGE.parent / _TINY_MODELS
    return (_WHEEL if wheel else _EVOMERGE.parent) / name


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in (*PACKAGES, TINY_MODELS):
            return None
        folder = folder_of(name)
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


def install() -> None:
    """Let Python find the two packages here, before any other of their names, in this process.

    Raises ImportError if another one has been imported already: evomerge's own modules could not be imported beside it.
    """
    for name in PACKAGES:
        module = sys.modules.get(name)
        ours = folder_of(name) / "__init__.py"
        if module is not None and (module.__file__ is None or Path(module.__file__).resolve() != ours):
            raise ImportError(
                f"evomerge needs its own package {name!r}, {ours}, and this process has imported another one, "
                f"{module.__file__ or 'a folder without __init__.py'}. Use evomerge in a process of its own."
            )
    sys.meta_path.insert(0, _Finder())
