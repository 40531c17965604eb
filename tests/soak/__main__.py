"""Disturb searches: `python -m tests.soak --minutes 60 --seed 1`. Exit code 1 if a promise was broken.

Promised: no told trial is lost or told twice; where one candidate is scored at a time, a disturbed search gives the
candidates and scores of one that was left alone; every search ends, and its winner can be exported and made again.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from evomerge.study import Study, StudyError
from evomerge.study.lines import FILE
from experiments.tiny_models.prepare import prepare
from experiments.tiny_models.sets import DEMO
from tests.cluster.clusters import why_not
from tests.evomerge.forks import Fork
from tests.soak.faults import Driver, Faults, disk
from tests.soak.nodes import nodes
from tests.soak.searches import ROOT, Search, write_search

#: Seconds between two faults, and for which a search that is no longer disturbed may take to end.
EVERY, ENDS = 10.0, 1800.0
#: Exit codes after which a search is resumed: paused by a fault, stopped, signals.
RESUMED = {5, 75, 129, 143, -signal.SIGKILL, -signal.SIGHUP, -signal.SIGTERM}
#: The order of searches.
ROUNDS = ("one_slot", "workers", "cluster", "one_slot", "demo", "cluster")
#: Variable by which the processes of a soak are found.
MARK = "EVOMERGE_SOAK"


class Broken(Exception):
    """A promise that was not kept."""


class Soak:
    """A run of faults. environment: of the drivers."""

    def __init__(self, rng: random.Random, folder: Path, environment: dict[str, str]) -> None:
        self.counts: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self._rng, self._folder, self._environment = rng, folder, environment

    def disturb(self, search: Search, faults: Faults, end: float) -> None:
        """Run a search to its end, with faults until `end`. Raises Broken."""
        told: dict[int, str] = {}
        last = max(end, time.monotonic()) + ENDS
        paused = 0
        while True:
            driver, begun = self._start(search), _records(search.study)
            while driver.poll() is None:
                self._wait(driver, EVERY * self._rng.uniform(0.5, 1.5))
                if driver.poll() is None and time.monotonic() < end:
                    name = faults.provoke(search, driver, progressed=_records(search.study) > begun + 1)
                    self.counts[name] += 1
                    self._say(f"{search.kind}: {name}, {len(told)} told")
                told = _still(told, search.study)
                if time.monotonic() > last:
                    raise Broken(f"{search.file}: not ended {ENDS:g} s after the last fault")
            said = driver.communicate()[1]
            self.codes[driver.wait()] += 1
            told = _still(told, search.study)
            if driver.returncode == 0:
                self.counts["told trials"] += len(told)
                return
            paused = paused + 1 if _records(search.study) <= begun + 3 else 0
            if driver.returncode not in RESUMED or paused > 20:
                raise Broken(f"{search.file}: exit code {driver.returncode}, {paused} times without progress: {said}")

    def compare(self, search: Search, number: int) -> None:
        """Compare with an undisturbed search. Raises Broken."""
        calm = write_search(
            search.kind, self._folder / f"calm-{number}", self._folder / f"calm-{number}-study", number, delay=0.0
        )
        code, said = self._call("search", calm.file)
        if code != 0:
            raise Broken(f"{calm.file}: the undisturbed search ended with {code}: {said}")
        if _history(calm.study) != _history(search.study):
            raise Broken(f"{search.study} has other candidates or scores than {calm.study}")
        self.counts["equal to an undisturbed search"] += 1

    def export(self, search: Search, number: int) -> None:
        """Export the winner, and make it again. Raises Broken."""
        out = self._folder / f"out-{number}"
        for command in (("export", search.study, "--best", "-o", out), ("reproduce", out)):
            code, said = self._call(*command)
            if code != 0:
                raise Broken(f"evomerge {command[0]} of {search.study} ended with {code}: {said}")
        self.counts["winners exported and made again"] += 1
        shutil.rmtree(out)

    def _start(self, search: Search) -> Driver:
        if search.nodes is None:
            return Fork("search", search.file, "--resume", silent=True, environment=self._environment)
        on = search.nodes.cluster
        return subprocess.Popen(
            on.command("-m", "evomerge.cli", "search", search.file, "--resume"),
            env={**on.environment, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _call(self, *arguments: object) -> tuple[int, str]:
        with Fork(*arguments, silent=True, environment=self._environment) as called:
            said = called.communicate()[1]
        return called.wait(), said

    @staticmethod
    def _wait(driver: Driver, seconds: float) -> None:
        until = time.monotonic() + seconds
        while driver.poll() is None and time.monotonic() < until:
            time.sleep(0.1)

    @staticmethod
    def _say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _records(study: Path) -> int:
    try:
        return (study / FILE).read_bytes().count(b"\n")
    except OSError:
        return 0


def _still(before: dict[int, str], study: Path) -> dict[int, str]:
    """The told trials by number. Raises Broken where one is missing, another one, or told twice."""
    try:
        now = {
            entry.trial.number: repr((entry.trial.x, entry.losses, entry.trial.label))
            for entry in Study.read(study).ended
        }
        numbers = Counter(number for number in _told_lines(study))
    except StudyError:
        if before:
            raise
        return before
    lost = [number for number, said in before.items() if now.get(number) != said]
    twice = [number for number, count in numbers.items() if count > 1]
    if lost or twice:
        raise Broken(f"{study}: trials lost or changed: {lost}; told twice: {twice}")
    return now


def _told_lines(study: Path) -> list[int]:
    """The numbers in the records of outcomes, read without our reader."""
    numbers = []
    for line in (study / FILE).read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and b'"kind":"told"' in line[:120]:
            with suppress(ValueError):  # a torn line
                numbers.append(json.loads(line)["data"]["number"])
    return numbers


def _history(study: Path) -> list[object]:
    return [
        (
            entry.trial.number,
            entry.trial.label,
            entry.trial.split,
            None if entry.trial.x is None else entry.trial.x.tobytes(),
            entry.losses,
            {} if entry.outcome is None else {task: s.values.tobytes() for task, s in entry.outcome.scores.items()},
        )
        for entry in Study.read(study).ended
    ]


def _left_over(mark: str) -> dict[int, str]:
    """Commands of the processes that outlived their drivers; the one that forks drivers ends with this one."""
    found = {}
    ours = {os.getpid(), *map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes() and int(place.name) not in ours:
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
    return found


def _clock(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The file that steps the clock of drivers, and the variables for it; None without a C compiler."""
    library, file = folder / "clock.so", folder / "clock"
    file.write_text("0", encoding="ascii")
    source = Path(__file__).with_name("clock.c")
    try:
        built = subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", library, source], capture_output=True, check=False
        )
    except FileNotFoundError:
        return None, {}
    if built.returncode:
        return None, {}
    return file, {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(file)}


def main() -> None:
    """Soak for a time, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", nargs="*", choices=sorted(set(ROUNDS)), default=list(ROUNDS))
    given = parser.parse_args()
    if "cluster" in given.rounds and why_not():
        print(f"no clusters: {why_not()}")
        given.rounds = [kind for kind in given.rounds if kind != "cluster"]
    if "demo" in given.rounds:
        prepare(ROOT / "models", DEMO, say=lambda line: print(f"  {line}", flush=True))
    folder = Path(tempfile.mkdtemp(prefix="evomerge-soak-"))
    mark = str(os.getpid())
    clock, variables = _clock(folder)
    # Ray's workers are nice by 15: beside other work, they would stand still.
    environment = {**variables, MARK: mark, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    os.environ.update(environment)  # the drivers are forks of a process that inherits it, preloaded library and all
    soak = Soak(random.Random(given.seed), folder, environment)
    end = time.monotonic() + 60 * given.minutes
    broken = ""
    number = 0
    with disk(folder / "disk") as small:
        faults = Faults(random.Random(given.seed), folder / "disk", small_disk=small, clock=clock)
        print(f"seed {given.seed}, small disk: {small}, clock that steps: {clock is not None}, in {folder}", flush=True)
        try:
            while time.monotonic() < end:
                kind = given.rounds[number % len(given.rounds)]
                number += 1
                own, study = folder / f"{number}-{kind}", folder / "disk" / str(number)
                with nodes() if kind == "cluster" else nullcontext() as on:
                    search = write_search(kind, own, study, number, delay=0.3, nodes=on)
                    soak.disturb(search, faults, end)
                if clock is not None:
                    clock.write_text("0", encoding="ascii")
                if search.exact:
                    soak.compare(search, number)
                soak.export(search, number)
                soak.counts["searches"] += 1
        except (Broken, StudyError, pytest.fail.Exception) as error:
            broken = f"{type(error).__name__}: {error}"
            shutil.copytree(folder / "disk", folder / "kept")
    time.sleep(20)  # for Ray's own processes to notice the death of a driver
    left = _left_over(mark)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said = {"counts": dict(sorted(soak.counts.items())), "exit codes": dict(sorted(soak.codes.items()))}
    print(json.dumps({**said, "left over": list(left.values()), "broken": broken}))
    if broken:
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
