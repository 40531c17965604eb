"""Handling of Ctrl-C, SIGTERM and SIGHUP during a search."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from evomerge.loop import StopRequest

#: Signals that end a search: Ctrl-C, an end asked for by a scheduler, a terminal or connection that was closed.
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals(stop: StopRequest, heard: Callable[[StopRequest], None] = lambda _: None) -> Iterator[None]:
    """Stop a search on signals: the first Ctrl-C drains it; the second, and other signals, stop at once.

    Before the workers run, every signal stops at once. A signal that is ignored stays ignored (SIGHUP under
    `nohup`). Python handles signals in its main thread only; in another one nothing is done.

    heard: called with the request in the handler, whatever the search is doing; must be re-entrant.
    """

    def interrupted(number: int, _frame: FrameType | None) -> None:
        stop.level += 1 if number == signal.SIGINT and not stop.starting else 2
        stop.signal = number
        heard(stop)
        if stop.level > 1 and stop.waiting:
            raise KeyboardInterrupt  # a candidate in this process may take minutes to finish

    here = threading.current_thread() is threading.main_thread()
    handled = [number for number in HANDLED if here and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupted) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
