"""Linear algebra on one thread, so that a proposal does not depend on how many threads a machine offers.

BLAS sums in another order with another number of threads; differences in the last bits soon lead a search to other
points. The matrices of a search are small, and one thread is usually faster on them.
"""

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")
#: Packages with their own thread pools; they may be imported after this module.
_POOLS = ("numpy", "scipy.linalg", "torch")


@functools.cache
def _controller(loaded: tuple[str, ...]) -> ThreadpoolController:  # noqa: ARG001 - finding the pools takes a millisecond
    return ThreadpoolController()


class _Limit(threading.local):
    """Whether this thread is within `one_thread`: limiting every pool takes tens of microseconds, so only once."""

    held = False


_limit = _Limit()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Limit every pool of the linear algebra libraries to one thread."""
    if _limit.held:
        yield
        return
    loaded = tuple(name for name in _POOLS if name in sys.modules)
    with _controller(loaded).limit(limits=1):
        _limit.held = True
        try:
            yield
        finally:
            _limit.held = False


def one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function with every pool of the linear algebra libraries limited to one thread."""

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        if _limit.held:
            return function(*args, **kwargs)
        with on_one_thread():
            return function(*args, **kwargs)

    return limited
