"""Templates from files, first rendered in a child process with limited time and memory."""

import contextlib
import mmap
import os
import resource
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: CPU seconds for one rendering, and on average for each of many; legitimate templates take microseconds.
SECONDS = 5.0
SECONDS_EACH = 0.002
#: Bytes beyond those that the process already has, and characters per rendering.
MEMORY = 1 << 30
CHARACTERS = 10_000_000

_TOO_MUCH_MEMORY = 3
_TOO_LONG = 4


@dataclass(frozen=True)
class Excess:
    """A rendering that does not terminate or whose output is endless. index: its number, from 0."""

    index: int
    why: str


def excess(work: Callable[[Callable[[str], None]], None], count: int) -> Excess | None:
    """Run `work` in a child process and return the limit that it exceeded, or None.

    work: performs about `count` renderings and passes each text to its argument.
    Exceptions end the run normally: they recur when rendering here. Only CPU time is limited, not wall-clock time.
    """
    progress = mmap.mmap(-1, 8)
    with warnings.catch_warnings():
        # Python 3.12 warns of forks next to threads; the child only renders templates and takes no other locks.
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
    """Run in the child; return the exit status. Signals without a handler interrupt even a single C operation."""
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
    except Exception as error:  # noqa: BLE001 - raised again, with context, at the actual rendering
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
    with contextlib.suppress(OSError, ValueError):  # Linux only; elsewhere only the output length is limited
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
