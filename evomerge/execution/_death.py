"""The cause of a worker's death, from Ray, its log and the kernel."""

import re
from dataclasses import dataclass
from pathlib import Path

#: Ray's message for a worker that it killed because its machine was short of memory.
_LOW_MEMORY = re.compile(r"OUT_OF_MEMORY|running low on memory")
#: "*** SIGSEGV received at time=..." in the worker's log, "The process receives a SIGTERM." in Ray's message.
_SIGNAL = re.compile(r"\*\*\* (SIG[A-Z]+) received|receives a (SIG[A-Z]+)")
#: Bytes at the end of a log that are read: a fatal signal is followed by a stack of some thousands.
_TAIL = 50_000


@dataclass(frozen=True)
class Death:
    """Why a worker died, in one sentence, and whether a lack of memory is the cause as far as it is known."""

    reason: str
    memory: bool = False


def why_died(said: str, log: str | None, kernel_kills: int) -> Death:
    """Find out why a worker died.

    Args:
        said: The message of Ray's error.
        log: The end of the worker's stderr; None for a worker on another machine.
        kernel_kills: Number of processes that the kernel here killed for memory while the worker ran.
    """
    if _LOW_MEMORY.search(said):
        return Death("Ray killed it because its machine ran low on memory", memory=True)
    found = _SIGNAL.search(log or "") or _SIGNAL.search(said)
    if found is not None:
        return Death(f"it ended with {found.group(1) or found.group(2)}")
    first = said.strip().partition("\n")[0]
    if log is None:
        return Death(first)
    if kernel_kills:
        said = f"{first} The kernel killed {kernel_kills} process(es) for memory meanwhile, probably this one too"
        return Death(said, memory=True)
    return Death(
        f"{first} It logged no signal, as after SIGKILL from another process, or from the kernel when memory runs out "
        "(see dmesg)"
    )


def log_tail(path: str) -> str | None:
    """Read the end of a worker's log; None for one that is not on this machine."""
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, Path(path).stat().st_size - _TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return None


def kernel_kills() -> int:
    """Count the processes that the kernel of this machine has killed for memory so far; 0 if unknown."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def own_log() -> str:
    """Find the file that this process writes its stderr to; empty if it is not a file."""
    try:
        return str(Path("/proc/self/fd/2").readlink())
    except OSError:
        return ""
