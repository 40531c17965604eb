"""The faults, each a function of a run that is going on; what it returns is counted."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.evomerge.forks import Fork
from tests.soak.searches import KINDS, Search

#: Seconds for which a process is stopped, and for which a full disk is watched.
STOPPED, FULL = 3.0, 20.0
#: Bytes of the disk that can be filled; a search over toys needs a tenth.
DISK = 24 << 20

#: On a cluster, a process on the cluster's network.
Driver = Fork | subprocess.Popen[str]


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small disk at a folder, which only root can have; whether there is one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "evomerge-soak", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def workers_of(search: Search, driver: Driver) -> list[int]:
    """The process ids of the Ray workers that hold a bench: below the driver, or below the nodes of a cluster."""
    below, waiting = [], [driver.pid if search.nodes is None else search.nodes.cluster.process.pid]
    while waiting:
        pid = waiting.pop()
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            waiting += map(int, children)
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Actor"):
                below.append(pid)
    return below


class Faults:
    """Chooses and provokes faults. clock: the file with the step of the clock, None where it cannot be stepped."""

    def __init__(self, rng: random.Random, place: Path, *, small_disk: bool, clock: Path | None) -> None:
        self._rng, self._place, self._small, self._clock = rng, place, small_disk, clock

    def provoke(self, search: Search, driver: Driver, *, progressed: bool) -> str:
        """Provoke a fault at random, and return its name. progressed: whether the driver recorded anything yet.

        A driver that has not is not killed again, nor loses nodes: the time of a search would go into its starts.
        """
        kinds: dict[str, Callable[[Search, Driver], str]] = {"driver stopped": self._stop}
        if progressed:
            kinds |= {"driver killed": self._kill, "SIGTERM": self._term, "SIGHUP": self._hang_up}
            if self._small and search.kind != "demo":
                kinds["disk full"] = self._fill
        if workers_of(search, driver):
            kinds |= {"worker killed": self._kill_worker, "worker stopped": self._stop_worker}
        if search.corrupt is not None:
            kinds["corrupt reply"] = self._corrupt
        if self._clock is not None and search.exact:
            kinds["clock step"] = self._step
        if search.nodes is not None:
            names = search.nodes.faults(progressed=progressed)
            kinds |= {name: partial(self._change_nodes, name) for name in names}
        return kinds[self._rng.choice(sorted(kinds))](search, driver)

    def _kill(self, _search: Search, driver: Driver) -> str:
        _signal_group(driver.pid, signal.SIGKILL)
        driver.wait()
        return "driver killed"

    def _term(self, _search: Search, driver: Driver) -> str:
        driver.send_signal(signal.SIGTERM)
        return "SIGTERM"

    def _hang_up(self, _search: Search, driver: Driver) -> str:
        driver.send_signal(signal.SIGHUP)
        return "SIGHUP"

    def _stop(self, _search: Search, driver: Driver) -> str:
        return _stopped(driver.pid, "driver stopped")

    def _stop_worker(self, search: Search, driver: Driver) -> str:
        return _stopped(self._rng.choice(workers_of(search, driver) or [driver.pid]), "worker stopped")

    def _kill_worker(self, search: Search, driver: Driver) -> str:
        for pid in workers_of(search, driver)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return "worker killed"

    def _change_nodes(self, name: str, search: Search, _driver: Driver) -> str:
        return name if search.nodes is None else search.nodes.provoke(name, self._rng)

    def _fill(self, _search: Search, driver: Driver) -> str:
        filler = self._place / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        end = time.monotonic() + FULL
        while driver.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        filler.unlink()
        return "disk full"

    def _corrupt(self, search: Search, _driver: Driver) -> str:
        if search.corrupt is not None:
            search.corrupt.write_text(self._rng.choice(KINDS), encoding="ascii")
        return "corrupt reply"

    def _step(self, _search: Search, _driver: Driver) -> str:
        if self._clock is not None:
            self._clock.write_text(str(self._rng.choice((-86400, 86400, -3600, 7, 0))), encoding="ascii")
        return "clock step"


def _stopped(pid: int, name: str) -> str:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED)
        os.kill(pid, signal.SIGCONT)
    return name


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
