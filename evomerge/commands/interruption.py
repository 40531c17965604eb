"""The question that Ctrl-C asks in a terminal: finish now, save and stop, or go on."""

import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evomerge.loop import StopRequest

#: Seconds without an answer after which the search is saved and stops.
PATIENCE = 60.0
#: Seconds between two looks at whether there is a question, and a key.
_PAUSE = 0.1


class Question:
    """Asks what Ctrl-C means; a context manager.

    Keys are read in a thread, so that an answer also counts while a candidate is scored in this process. The thread
    waits from the beginning on: none can be started in a signal handler.

    Args:
        say: Shows a message; called in the thread.
        descriptor: The terminal.
    """

    def __init__(self, say: Callable[[str], None], descriptor: int) -> None:
        self._say, self._descriptor = say, descriptor
        self._asked: tuple[StopRequest, bool] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="question", daemon=True)

    def __enter__(self) -> "Question":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def ask(self, stop: StopRequest, *, can_finish: bool) -> str:
        """Let the search wait for an answer, and return the question; called in a signal handler.

        can_finish: whether there is anything to select from.
        """
        stop.asking = True
        self._asked = stop, can_finish
        finish = (
            "f  finish now: select and report with the candidates so far"
            if can_finish
            else "(finishing now takes a candidate with scores: there is none yet)"
        )
        return (
            f"Stop? Nothing new is started meanwhile. Press\n  {finish}\n  s  save and stop; --resume continues later\n"
            f"  c  go on\nAfter {PATIENCE:.0f} s without an answer, it is saved and stops; Ctrl-C again stops at once"
        )

    def _answer(self) -> None:
        while not self._ended.wait(_PAUSE):
            if self._asked is not None:
                (stop, can_finish), self._asked = self._asked, None
                key = self._key("fsc" if can_finish else "sc", stop)
                if stop.level == 1 and key in ("f", "c"):
                    stop.finish = key == "f"
                    stop.level = 0
                stop.asking = False
                if stop.level < 2 and not self._ended.is_set():
                    self._say(_SAID[key])

    def _key(self, keys: str, stop: StopRequest) -> str:
        """Return the first of these keys that is pressed; `s` when there is none in time or the search stops."""
        until = time.monotonic() + PATIENCE
        with _keys_at_once(self._descriptor):
            while stop.level == 1 and time.monotonic() < until and not self._ended.is_set():
                try:
                    if not select.select([self._descriptor], [], [], _PAUSE)[0]:
                        continue
                    pressed = os.read(self._descriptor, 1).decode(errors="replace").lower()
                except OSError:  # the terminal was closed
                    return "s"
                if not pressed:
                    return "s"
                if pressed in keys:
                    return pressed
        return "s"


_SAID = {
    "f": "finishing: running candidates are scored, then a winner is selected",
    "c": "going on",
    "s": "stopping after the running candidates; Ctrl-C again stops at once",
}


def asks_people() -> bool:
    """Return whether there is a terminal on both sides, and this process is in its foreground.

    A process in the background would be suspended when it reads.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # not our controlling terminal
        return False


@contextmanager
def _keys_at_once(descriptor: int) -> Iterator[None]:
    """Read keys without Enter and without echo, which would disturb the live view; Ctrl-C remains a signal."""
    try:
        before = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor, termios.TCSANOW)  # Ctrl-C has emptied the queue: all in it is an answer
    except (termios.error, OSError):  # the terminal was closed
        yield
        return
    try:
        yield
    finally:
        try:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        except (termios.error, OSError):
            return
