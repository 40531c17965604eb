"""Ctrl-C and SIGTERM while a search runs: what they ask of it, and that they were heard."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from evomerge.search import StopRequest


@contextmanager
def signals(stop: StopRequest, heard: Callable[[StopRequest], None] = lambda _: None) -> Iterator[None]:
    """Ctrl-C once asks to drain, twice to leave at once; SIGTERM leaves at once. Ray's own handlers give way.

    heard: called from the handler, whatever the search is doing: it must bear to interrupt itself.
    """

    def interrupted(number: int, _frame: FrameType | None) -> None:
        stop.level += 1 if number == signal.SIGINT else 2
        stop.signal = number
        heard(stop)
        if stop.level > 1 and stop.waiting:
            raise KeyboardInterrupt  # a candidate in this process may take minutes to finish

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
