"""Templates from files, tried in a child process that may use little time and memory, before they are rendered here."""

import contextlib
import mmap
import os
import resource
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: CPU seconds for one rendering, of which honest templates need microseconds, and for each of many on average.
SECONDS = 5.0
SECONDS_EACH = 0.002
#: Bytes beyond those that the process has, and characters of one rendering.
MEMORY = 1 << 30
CHARACTERS = 10_000_000

_TOO_MUCH_MEMORY = 3
_TOO_LONG = 4


@dataclass(frozen=True)
class Excess:
    """A rendering that never ends or is endless. index: which one, counted from 0."""

    index: int
    why: str


def excess(work: Callable[[Callable[[str], None]], None], count: int) -> Excess | None:
    """Run `work` in a child process; what it uses too much of, or None.

    work: does about `count` renderings and hands each one's text to its argument.
    Exceptions count as an end: whoever renders here meets them again. Needs no clock: only CPU time counts.
    """
    progress = mmap.mmap(-1, 8)
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; the child runs templates only, and takes no locks of others.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _run(work, count, progress)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    index = int.from_bytes(progress[:8], "little")
    if os.WIFSIGNALED(status):
        over: dict[int, str] = {
            signal.SIGPROF: f"took more than {SECONDS:g} s",
            signal.SIGXCPU: "took too long together with the others",
        }
        return Excess(index, over.get(os.WTERMSIG(status), f"ended its process (signal {os.WTERMSIG(status)})"))
    reasons = {_TOO_MUCH_MEMORY: f"took more than {MEMORY >> 30} GiB of memory"}
    reasons[_TOO_LONG] = f"made a text of more than {CHARACTERS:,} characters"
    code = os.WEXITSTATUS(status)
    return Excess(index, reasons[code]) if code in reasons else None


def _run(work: Callable[[Callable[[str], None]], None], count: int, progress: mmap.mmap) -> int:
    """In the child: the exit status. Signals without a handler end it even within one operation of C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGPROF, signal.SIGXCPU, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _limit(count)
    done = -1

    def step(text: str) -> None:
        nonlocal done
        if len(text) > CHARACTERS:
            os._exit(_TOO_LONG)
        done += 1
        progress[:8] = done.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)

    try:
        step("")
        work(step)
    except Exception as error:  # noqa: BLE001 - it is raised again, and explained, where templates are rendered for real
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return _TOO_MUCH_MEMORY
            cause = cause.__cause__ or cause.__context__
    return 0


def _limit(count: int) -> None:
    seconds = int(SECONDS + SECONDS_EACH * count)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds + 1, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # Linux only; elsewhere the length of the text is what is limited
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
