"""The pool of Ray workers, with real processes that really die."""

import ctypes
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from evomerge.execution import _worker
from evomerge.execution.base import Executor, ExecutorError
from evomerge.execution.ray_pool import RayPool
from evomerge.execution.serial import SerialExecutor
from evomerge.trial import Outcome, Trial
from tests.contracts.executor import ExecutorContract, Make, SmallBench, describe, run_all, trial
from tests.waiting import CEILING, wait_until


class DangerousBench(SmallBench):
    """Dies, hangs, waits or returns nonsense by the label; leaves a file behind for every start."""

    entered: Callable[[str], None]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        if (folder / "models are gone").exists():
            raise FileNotFoundError("models are gone")
        self.folder = folder

    def run(self, trial: Trial) -> Outcome:
        started = len(list(self.folder.glob(f"{trial.number}-*")))
        (self.folder / f"{trial.number}-{started}").touch()
        if trial.label == "die" or (trial.label == "die once" and started == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.label == "crash once" and started == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in trial.label:
            self.entered("merge")
            self.entered("evaluate:stuck")
        if trial.label == "hang" or (trial.label == "hang once" and started == 0):
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter, as a stuck kernel would
        if trial.label == "wait":
            while not (self.folder / "go on").exists():
                time.sleep(0.01)
        if trial.label == "unpicklable":
            return Outcome(trial.number, events=({"event": threading.Lock()},))
        if trial.label == "threads":
            return Outcome(trial.number, worker=os.environ["OMP_NUM_THREADS"])
        return super().run(trial)


@pytest.mark.usefixtures("ray_here")
class TestRayPool(ExecutorContract):
    @pytest.fixture
    def make(self) -> Iterator[Make]:
        pools: list[RayPool] = []

        def make_pool(make_bench: Callable[[], object]) -> Executor:
            pools.append(RayPool(make_bench, workers=2))  # type: ignore[arg-type]
            return pools[-1]

        yield make_pool
        for pool in pools:
            pool.close()


@pytest.fixture(scope="module")
def two_workers(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayPool, Path]]:
    """A pool and its folder, for all tests that leave it with two workers: starting them takes seconds."""
    folder = tmp_path_factory.mktemp("bench")
    pool = RayPool(partial(DangerousBench, folder), workers=2)
    yield pool, folder
    pool.close()


@pytest.fixture
def pool(two_workers: tuple[RayPool, Path]) -> Iterator[RayPool]:
    pool, folder = two_workers
    for file in folder.iterdir():
        file.unlink()
    yield pool
    wait_until(lambda: pool.next_outcome(0.1) is None and pool.slots == 2)


@pytest.fixture
def folder(two_workers: tuple[RayPool, Path]) -> Path:
    """Where the pool's benches leave a file for every start."""
    return two_workers[1]


def test_the_same_outcomes_as_in_this_process(pool: RayPool, tmp_path: Path) -> None:
    trials = [trial(number, "raise" if number == 2 else "search") for number in range(6)]
    ray = {outcome.number: describe(outcome) for outcome in run_all(pool, trials)}
    serial = run_all(SerialExecutor(partial(DangerousBench, tmp_path)), trials)
    assert ray == {outcome.number: describe(outcome) for outcome in serial}


@pytest.mark.fault("F7", "all workers are killed while they score", "both trials get their scores")
def test_a_killed_worker_costs_nothing_but_time(pool: RayPool, folder: Path) -> None:
    victims = pool.worker_pids()
    pool.submit(trial(0, "wait"))
    pool.submit(trial(1, "wait"))
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    (folder / "go on").touch()
    outcomes = [pool.next_outcome(CEILING), pool.next_outcome(CEILING)]
    found = {outcome.number: outcome for outcome in outcomes if outcome}
    assert sorted(found) == [0, 1]
    for number, outcome in found.items():
        assert outcome.failure is None
        assert [(e["event"], e["trial"], e["attempt"]) for e in outcome.events] == [("worker_died", number, 1)]
        assert outcome.events[0]["reason"]
    run_all(pool, map(trial, range(2, 6)))
    wait_until(lambda: pool.next_outcome(0.1) is None and pool.slots == 2)
    assert not set(pool.worker_pids()) & set(victims)


def test_an_idle_pool_gets_its_workers_back(pool: RayPool) -> None:
    victim = pool.worker_pids()[1]
    os.kill(victim, signal.SIGKILL)
    labels = ["search"] * 8
    run_all(pool, map(trial, range(len(labels)), labels))
    wait_until(lambda: pool.next_outcome(0.0) is None and pool.slots == 2 and victim not in pool.worker_pids())


@pytest.mark.fault(
    "F7", "SIGKILL and SIGSEGV in the worker, again and again", "three attempts; the signal is named; others go on"
)
def test_a_trial_that_kills_its_workers_fails_alone(pool: RayPool, folder: Path) -> None:
    labels = ["search", "die", "crash once", "search", "search"]
    outcomes = {o.number: o for o in run_all(pool, map(trial, range(len(labels)), labels))}
    assert sorted(outcomes) == list(range(5))
    assert [n for n, outcome in outcomes.items() if outcome.failure] == [1]
    failure = outcomes[1].failure
    assert failure is not None
    assert failure.kind == "worker_died"
    assert [event["attempt"] for event in outcomes[1].events] == [1, 2, 3]
    assert "3 workers died" in failure.message
    assert "as after SIGKILL" in failure.message
    assert [(event["event"], event["reason"]) for event in outcomes[2].events] == [
        ("worker_died", "it ended with SIGSEGV")
    ]
    assert len(list(folder.glob("1-*"))) == 3


@pytest.mark.fault(
    "F10", "native code sleeps and holds the interpreter", "killed, tried once more; stage and stack in the failure"
)
def test_a_hanging_trial_is_killed_and_tried_once_more(ray_here: None, tmp_path: Path) -> None:
    ahead = [0.0]  # of the clock: nothing hangs before this test says so
    clock = lambda: time.monotonic() + ahead[0]  # noqa: E731
    pool = RayPool(partial(DangerousBench, tmp_path), workers=2, trial_timeout=CEILING, clock=clock)
    pool.submit(trial(0, "hang"))
    pool.submit(trial(1, "hang once"))
    wait_until(lambda: (tmp_path / "0-0").exists() and (tmp_path / "1-0").exists())
    ahead[0] += CEILING
    second = pool.next_outcome(CEILING)
    wait_until(lambda: pool.next_outcome(0.1) is None and (tmp_path / "0-1").exists())
    ahead[0] += CEILING
    first = pool.next_outcome(CEILING)
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (0, 1)
    assert first.failure is not None
    assert first.failure.kind == "timeout"
    assert [event["event"] for event in first.events] == ["timeout", "timeout"]
    assert re.fullmatch(r"no outcome after 600 s, for \d+ s in 'evaluate:stuck', 2 times", first.failure.message)
    assert "in run_guarded" in first.failure.trace, "it says where native code was called that holds the interpreter"
    assert len(list(tmp_path.glob("0-*"))) == 2
    assert second.failure is None
    assert [event["event"] for event in second.events] == ["timeout"]
    pool.close()


@pytest.mark.slow
@pytest.mark.fault(
    "F12",
    "workers are killed as the kernel would",
    "all trials get scores; one of two workers goes after the second death",
)
def test_half_of_the_workers_go_when_memory_runs_out_again_and_again(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real deaths by SIGKILL; that the kernel has counted them as its own is what the test makes up."""
    killed = itertools.count()
    monkeypatch.setattr(_worker, "kernel_kills", lambda: next(killed))
    pool = RayPool(partial(DangerousBench, tmp_path), workers=2)
    labels = ["search", "die once", "die once", "search", "die once", "search"]
    outcomes = {outcome.number: outcome for outcome in run_all(pool, map(trial, range(6), labels))}
    assert all(outcome.failure is None for outcome in outcomes.values())
    events = [event for outcome in outcomes.values() for event in outcome.events]
    reasons = [str(event["reason"]) for event in events if event["event"] == "worker_died"]
    assert len(reasons) == 3
    assert all("for memory meanwhile" in reason for reason in reasons)
    (fewer,) = (str(event["reason"]) for event in events if event["event"] == "fewer_workers")
    assert fewer.startswith("1 of 2 workers from now on: 2 of them died because memory ran out.")
    wait_until(lambda: pool.next_outcome(0.1) is None and pool.slots == 1)
    pool.close()


@pytest.mark.slow
def test_short_parts_leave_whole_trials_their_time(ray_here: None, tmp_path: Path) -> None:
    pool = RayPool(partial(DangerousBench, tmp_path), workers=2)
    steps = [trial(number).changed(examples={"one": ("a",)}) for number in range(20)]
    run_all(pool, steps)
    assert pool._deadline.seconds is None
    run_all(pool, [trial(number) for number in range(20, 26)])
    assert pool._deadline.seconds is not None
    pool.close()


@pytest.mark.slow
def test_a_bench_that_cannot_be_built_again_is_an_error(ray_here: None, tmp_path: Path) -> None:
    pool = RayPool(partial(DangerousBench, tmp_path), workers=1)
    (tmp_path / "models are gone").touch()
    with pytest.raises(ExecutorError, match="models are gone"):  # noqa: PT012 - whichever call notices it
        run_all(pool, [trial(0, "die once"), trial(1)])
        wait_until(lambda: pool.next_outcome(0.1))
    pool.close()


def test_an_outcome_that_cannot_travel_is_a_failure(pool: RayPool) -> None:
    (outcome,) = run_all(pool, [trial(5, "unpicklable")])
    assert outcome.number == 5
    assert outcome.failure is not None
    assert outcome.failure.kind == "TypeError"


def test_workers_use_the_threads_they_have(ray_here: None, tmp_path: Path) -> None:
    pool = RayPool(partial(DangerousBench, tmp_path), workers=1, cpus_per_worker=2)
    (outcome,) = run_all(pool, [trial(0, "threads")])
    assert outcome.worker == "2"
    pool.close()


def test_a_place_that_does_not_exist_is_an_error(ray_here: None, tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match="No worker answered for 1 s"):
        RayPool(partial(DangerousBench, tmp_path), workers=1, cpus_per_worker=999, startup_timeout=1)
    with pytest.raises(ExecutorError, match="at least one worker"):
        RayPool(partial(DangerousBench, tmp_path), workers=0)


def died(**context: object) -> ActorDiedError:
    """What Ray raises where an actor is dead through no fault of its constructor."""
    return ActorDiedError(ActorDiedErrorContext(class_name="Actor", actor_id=b"\1" * 16, **context))


@pytest.mark.parametrize(
    ("error", "events"),
    [
        (died(node_death_info=NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)), ["preempted"] * 4),
        (died(error_message="The actor's node has died."), ["worker_died"] * 3),
        (died(never_started=True), ["worker_died"] * 3),
        (ActorUnavailableError("Socket closed", b"\1" * 16), ["worker_died"] * 3),
    ],
)
@pytest.mark.fault(
    "F8", "Ray's errors for lost and preempted nodes are raised", "retried; a preemption counts against no trial"
)
def test_a_lost_node_is_never_read_as_a_bench_that_cannot_be_built(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch, error: RayError, events: list[str]
) -> None:
    """Ray's own error objects at the place where Ray raises them; the cluster that gives them is in `make slow`."""
    get, losses = ray.get, [error] * len(events)

    def lose_first(call: object) -> object:
        value = get(call)
        if losses and isinstance(value, Outcome):
            raise losses.pop()
        return value

    monkeypatch.setattr(ray, "get", lose_first)
    (outcome,) = run_all(pool, [trial(3)])
    assert [event["event"] for event in outcome.events] == events
    assert (outcome.failure is None) == (events[0] == "preempted"), "an announced end is held against nobody"


DRIVER = """
import os, signal, sys
from functools import partial
from pathlib import Path
from evomerge.trial import Trial

interrupts = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: interrupts.append(number))
from evomerge.execution.ray_pool import RayPool
from tests.contracts.executor import trial
from tests.evomerge.execution.test_ray_pool import CEILING, DangerousBench

folder = Path(sys.argv[1])
pool = RayPool(partial(DangerousBench, folder), workers=1)
pid = pool.worker_pids()
pool.submit(trial(0, "wait"))
print("running", flush=True)
while not interrupts:
    pool.next_outcome(0.05)
print("interrupted", flush=True)
while len(interrupts) < 2:
    pool.next_outcome(0.05)
(folder / "go on").touch()
outcome = pool.next_outcome(CEILING)
assert outcome.failure is None and not outcome.events, outcome
assert pool.worker_pids() == pid
fds = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
sockets = {fd.stat().st_ino for fd in fds if fd.exists()}
rows = [row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
print(*[row[1] for row in rows if row[3] == "0A" and int(row[9]) in sockets], flush=True)
pool.close()
print("done", interrupts, flush=True)
"""


@pytest.mark.slow
@pytest.mark.fault("F41", "the sockets of a search are listed", "all listen on 127.0.0.1")
def test_ctrl_c_in_a_terminal_leaves_workers_and_handlers_alone(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", DRIVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "running\n"
    wait_until(lambda: list(tmp_path.glob("0-*")))
    os.killpg(driver.pid, signal.SIGINT)  # what a terminal does
    assert driver.stdout.readline() == "interrupted\n"
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=CEILING)
    assert (driver.returncode, err) == (0, "")
    listens, done = out.splitlines()
    assert done == "done [2, 15]"
    assert listens  # on 127.0.0.1, as /proc/net writes it, and nowhere else
    assert all(a.startswith(("0100007F:", "0000000000000000FFFF00000100007F:")) for a in listens.split())
