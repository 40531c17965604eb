"""Search for the best coefficients to merge fine-tuned models. The loop of a search is in `evomerge.loop`.

The public names are loaded when they are first used: `import evomerge` itself loads neither torch nor Ray.

Example:
    >>> import evomerge
    >>> config = evomerge.load_config("search.yaml")
    >>> list(config.tasks)
    ['one', 'two']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evomerge.own_packages import install

if TYPE_CHECKING:
    from evomerge.api import merge, search
    from evomerge.config import load_config
    from evomerge.recipe import Merge, Recipe
    from evomerge.run import Run
    from evomerge.study import Study

install()  # before anything imports the packages evaluators or search_spaces

__version__ = "0.1.0"

__all__ = ["Merge", "Recipe", "Run", "Study", "__version__", "load_config", "merge", "search"]

#: Public name -> the module that defines it.
_HOMES = {
    "Merge": "evomerge.recipe",
    "Recipe": "evomerge.recipe",
    "Run": "evomerge.run",
    "Study": "evomerge.study",
    "load_config": "evomerge.config",
    "merge": "evomerge.api",
    "search": "evomerge.api",
}

if not TYPE_CHECKING:  # type checkers would take every name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'evomerge' has no attribute {name!r}; expected one of {', '.join(__all__)}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # the next access does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
