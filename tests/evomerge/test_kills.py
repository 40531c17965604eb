"""The night is never lost: SIGKILL the driver at random moments; what comes out is what would have come out."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.study import Study
from evomerge.study.lines import FILE
from tests.evomerge.forks import Fork
from tests.evomerge.searches import run_here
from tests.toys import search_file
from tests.waiting import CEILING, wait_until

TRIALS = 70

Driver = Fork | subprocess.Popen[bytes]


def write_search(folder: Path) -> Path:
    tasks = {"one": {"evaluator": "synthetic", "n_examples": 60, "delay": 0.01, "fail": 0.05}}
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, tasks=tasks, budget={"trials": TRIALS})))
    return file


def start(file: Path, **environment: str) -> subprocess.Popen[bytes]:
    """A driver that shares nothing with another one, not even its hash seed."""
    command = [sys.executable, "-m", "evomerge.cli", "search", str(file), "--resume"]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def fork(file: Path) -> Fork:
    """The same in a moment."""
    return Fork("search", file, "--resume", silent=True)


def records(folder: Path) -> int:
    ledger = folder / "study" / FILE
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def kill_when(process: Driver, folder: Path, count: int, pause: float) -> bool:
    """SIGKILL the driver once its ledger has `count` records and `pause` more seconds went by."""
    while process.poll() is None and records(folder) < count:
        time.sleep(0.002)
    time.sleep(pause)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def history(folder: Path) -> list[tuple[object, ...]]:
    study = Study.read(folder / "study")
    assert not study.pending
    return [
        (
            e.trial.number,
            e.trial.label,
            e.trial.split,
            None if e.trial.x is None else e.trial.x.tobytes(),
            e.losses,
            None if e.outcome is None else {t: s.values.tobytes() for t, s in e.outcome.scores.items()},
        )
        for e in study.told
    ]


def check(tmp_path: Path, kills: int, begin: Callable[[Path], Driver]) -> None:
    """Begin and kill a search several times and end it in a process of its own; compare with one in this process."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    rng = np.random.default_rng(11)
    file = write_search(tmp_path / "killed")
    killed = 0
    for target in sorted(rng.integers(3, 2 * TRIALS + 20, size=kills)):
        process = begin(file)
        killed += kill_when(process, tmp_path / "killed", int(target), float(rng.random() * 0.02))
        assert process.stderr is not None
        process.stderr.close()
    last = start(file)
    run_here(write_search(tmp_path / "whole"))
    _, errors = last.communicate(timeout=CEILING)
    assert last.returncode == 0, errors.decode()
    assert killed == kills
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    study = Study.read(tmp_path / "killed" / "study")
    assert not [data for kind, data in study.events if kind == "duplicate"]
    assert len({entry.trial.number for entry in study.told}) == len(study.told)


@pytest.mark.fault(
    "F3", "the driver is killed three times at random moments", "the same candidates and scores as undisturbed"
)
def test_a_few_kills_change_nothing(tmp_path: Path) -> None:
    check(tmp_path, kills=3, begin=fork)


@pytest.mark.slow
@pytest.mark.fault(
    "F3", "the driver is killed twenty times", "candidates and scores are those of an undisturbed search"
)
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    check(tmp_path, kills=20, begin=start)


@pytest.mark.slow
@pytest.mark.fault("F9", "the GCS of a running search is killed", "exit code 5, `paused` recorded")
def test_losing_the_head_of_ray_pauses_the_study(tmp_path: Path) -> None:
    """Ray would end the driver from C++ after a minute, with its own words and exit code 1."""
    file = write_search(tmp_path)
    settings = {"executor": "ray", "workers": 1, "budget": {"trials": 10**6}}
    tasks = {"one": {"evaluator": "synthetic", "n_examples": 60, "delay": 0.1}}
    file.write_text(strict_yaml.dump(search_file(tmp_path, tasks=tasks, **settings)))
    driver = start(file)
    wait_until(lambda: records(tmp_path) > 10)
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
    (head,) = [pid for pid in map(int, children) if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(head, signal.SIGKILL)
    driver.communicate(timeout=CEILING)
    assert driver.returncode == 5
    kind, data = Study.read(tmp_path / "study").events[-1]
    assert (kind, "head of the Ray cluster" in data["reason"]) == ("paused", True)


@contextmanager
def cluster(folder: Path, port: int, token: dict[str, str]) -> Iterator[dict[str, int]]:
    """A cluster of one node on this machine, as `ray start` makes it: name of each server -> its process id."""
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}"]
    settings = ["--num-cpus=2", "--object-store-memory=104857600", "--include-dashboard=false", "--disable-usage-stats"]
    environment = {**os.environ, **token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with subprocess.Popen(
        [*command, *settings, f"--temp-dir={folder}", "--block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def servers() -> dict[str, int]:
            commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.read_text().split()}
            names = ("gcs_server", "raylet")
            return {n: pid for n in names for pid, line in commands.items() if n.encode() in line.split(b"\0")[0]}

        try:
            wait_until(lambda: process.poll() is not None or len(servers()) == 2)
            assert process.poll() is None
            yield servers()
        finally:
            for pid in servers().values() if process.poll() is None else ():
                os.kill(pid, signal.SIGKILL)
            process.kill()


@pytest.mark.slow
@pytest.mark.fault(
    "F9", "a cluster's head dies and is started again", "paused with 5; the resumed search goes on there"
)
def test_losing_a_running_cluster_pauses_the_study_which_goes_on_there(
    tmp_path: Path,
) -> None:
    """With --block, the death of one server of the head ends all of them: the machine is gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    short = Path(tempfile.mkdtemp(prefix="ray"))  # sockets have short names
    settings = {"executor": "ray", "workers": 1, "ray_address": f"127.0.0.1:{port}"}
    tasks = {"one": {"evaluator": "synthetic", "n_examples": 60, "delay": 0.1}}
    file = tmp_path / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(tmp_path, tasks=tasks, **settings, budget={"trials": 10**6})))
    with cluster(short / "a", port, token) as servers:
        driver = start(file, **token)
        wait_until(lambda: driver.poll() is not None or records(tmp_path) > 10)
        os.kill(servers["gcs_server"], signal.SIGKILL)
        _, errors = driver.communicate(timeout=CEILING)
    study = Study.read(tmp_path / "study")
    kind, data = study.events[-1]
    assert (driver.returncode, kind) == (5, "paused"), errors.decode()
    assert "Ray" in data["reason"]
    before = len(study.told)
    assert before > 2
    file.write_text(strict_yaml.dump(search_file(tmp_path, tasks=tasks, **settings, budget={"trials": before + 3})))
    with cluster(short / "b", port, token):
        again = start(file, **token)
        _, errors = again.communicate(timeout=CEILING)
    assert again.returncode == 0, errors.decode()
    told = Study.read(tmp_path / "study").told
    assert len({entry.trial.number for entry in told}) == len(told) > before
    shutil.rmtree(short)
