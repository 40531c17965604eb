"""A second process with another PYTHONHASHSEED and two torch threads, which makes the same merges and points.

One for all tests: starting it takes longer than what it is asked for.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parents[2]


class OtherProcess:
    """Asks the process for the fingerprint of a contract class; `close` ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contracts.other_process"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fingerprint(self, contract: type) -> str:
        """What `contract().fingerprint(threads=2)` is there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{contract.__module__}:{contract.__qualname__}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:  # no AssertionError: the kits' own tests expect those
            raise RuntimeError(f"The other process ended at the fingerprint of {contract.__qualname__}; see stderr.")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=CEILING)


def serve() -> None:
    """Answer one line with one line, until there are no more."""
    import torch

    torch.set_num_threads(2)
    for line in sys.stdin:
        module, _, name = line.strip().partition(":")
        contract = getattr(importlib.import_module(module), name)
        print(contract().fingerprint(threads=2), flush=True)


if __name__ == "__main__":
    serve()
