"""A command of evomerge in a process of its own, with our terminal."""

import shlex
import signal
import subprocess
import sys

from evomerge.errors import SIGNAL


def shown(arguments: tuple[str, ...]) -> str:
    """Return the command as one would type it."""
    return shlex.join(("evomerge", *arguments))


def run(arguments: tuple[str, ...]) -> int:
    """Run `evomerge ARGUMENTS` and return its exit code, as a shell gives it."""
    with subprocess.Popen([sys.executable, "-m", "evomerge.cli", *arguments]) as process:
        # Only now, so that the command does not inherit it: a Ctrl-C reaches both, and the command handles it.
        # A SIGTERM reaches this process alone.
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
        }
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code if code >= 0 else SIGNAL - code
