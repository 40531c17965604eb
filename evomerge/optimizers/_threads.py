"""Linear algebra on one thread, so that a proposal does not depend on how many threads a machine offers.

BLAS sums in another order with another number of threads; differences in the last bits soon lead a search to other
points. The matrices of a search are small, and one thread is usually faster on them.
"""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")
#: Packages with their own thread pools; they may be imported after this module.
_POOLS = ("numpy", "scipy.linalg", "torch")


@functools.cache
def _controller(loaded: tuple[str, ...]) -> ThreadpoolController:  # noqa: ARG001 - finding the pools takes a millisecond
    return ThreadpoolController()


def one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function with every pool of the linear algebra libraries limited to one thread."""

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        loaded = tuple(name for name in _POOLS if name in sys.modules)
        with _controller(loaded).limit(limits=1):
            return function(*args, **kwargs)

    return limited
