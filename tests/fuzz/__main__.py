"""Fuzz every reader in turn, for a time: `python -m tests.fuzz --minutes 60`. Exit code 1 if there are findings."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.targets import ROOT, TARGETS

#: Seconds of a processor for the start of a worker and its last input, or of the clock without using any, before it
#: counts as hanging. On a busy machine the clock alone says little.
GRACE = 300
#: Lines of a worker that failed.
LINES = 30


def fuzz(name: str, engine: str, seconds: float, number: int) -> str:
    """Return what a worker said, ending with `FAILED` if it found something."""
    command = [sys.executable, "-m", "tests.fuzz.worker", name, "--engine", engine]
    options = ["--seconds", str(seconds), "--seed", str(number)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    with tempfile.TemporaryFile() as said:
        worker = subprocess.Popen(
            [*command, *options], cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        if not _ends(worker, seconds + GRACE):
            worker.kill()
            worker.wait()
            return f"{name}: {engine} did not end: it hangs where no signal reaches it\nFAILED"
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
    if worker.returncode == 0:
        counts = [line for line in lines if "number_of_executed_units" in line or line.endswith(" inputs")]
        return f"{name}: {engine}, {' '.join(counts).split()[-2 if engine == 'hypothesis' else -1]} inputs"
    return "\n".join([*lines[-LINES:], f"{name}: {engine} ended with {worker.returncode}", "FAILED"])


def _ends(worker: subprocess.Popen[bytes], limit: float) -> bool:
    """Wait for its end; False if it used this many seconds of a processor, or for GRACE seconds none."""
    used, idle = 0.0, time.monotonic() + GRACE
    while used < limit and time.monotonic() < idle:
        with suppress(subprocess.TimeoutExpired):
            worker.wait(1.0)
            return True
        now = _processor_seconds(worker.pid)
        if now > used:
            used, idle = now, time.monotonic() + GRACE
    return False


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Divide the time among the readers and the engines that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], default=[])
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    engines = ["hypothesis"] + ["atheris"] * (find_spec("atheris") is not None)
    seconds = 60 * given.minutes / (len(names) * len(engines))
    print(f"seed {given.seed}, {', '.join(engines)}: {seconds:.0f} s for each reader and engine", flush=True)
    failed = 0
    for name in names:
        for engine in engines:
            said = fuzz(name, engine, seconds, given.seed % 2**31)
            failed += said.endswith("FAILED")
            print(said, flush=True)
    print(f"{failed} findings; they are in {Path(__file__).parent / 'corpus'}" if failed else "no findings")
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
