"""A second process with another PYTHONHASHSEED and two torch threads, which makes the same merges and points.

One for all tests: starting it takes longer than what it is asked for.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parents[2]


class OtherProcess:
    """Asks the process for the fingerprint of a contract class, or to call a function; `close` ends it."""

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
        return self._ask(contract.__module__, contract.__qualname__)

    def call(self, function: Callable[..., str], *arguments: object) -> str:
        """What a function of a module, which takes texts and gives one line, returns there."""
        return self._ask(function.__module__, function.__qualname__, *map(str, arguments))

    def _ask(self, *words: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:  # no AssertionError: the kits' own tests expect those
            raise RuntimeError(f"The other process ended at {':'.join(words[:2])}; see stderr.")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=CEILING)


def serve() -> None:
    """Answer one line with one line, until there are no more."""
    import torch

    torch.set_num_threads(2)
    for line in sys.stdin:
        module, name, *arguments = json.loads(line)
        found = getattr(importlib.import_module(module), name)
        print(found().fingerprint(threads=2) if isinstance(found, type) else found(*arguments), flush=True)


if __name__ == "__main__":
    serve()
