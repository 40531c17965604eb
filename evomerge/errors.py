"""Exit codes, and the base of the errors that end a command with one message and one of them."""

DONE = 0
#: A comparison that was asked for found a difference.
DIFFERENT = 1
USAGE = 2
REFUSED = 3
BUSY = 4
PAUSED = 5
#: Stopped early by one Ctrl-C, every running candidate finished; the study can be resumed.
STOPPED = 75
#: Left at once: 130 after a second Ctrl-C, 143 after SIGTERM; the study can be resumed.
SIGNAL = 128


class EvomergeError(ValueError):
    """An error of the user's input or of the machine; its message names the fault, the expectation and the remedy.

    The two leaf packages import nothing of evomerge: their errors have an `exit_code` of their own.
    """

    exit_code = USAGE


def exit_code(error: BaseException) -> int | None:
    """Return the exit code of an error caused by the user or the machine; None for an internal error."""
    code = getattr(error, "exit_code", USAGE if isinstance(error, OSError) else None)
    return code if isinstance(code, int) else None
