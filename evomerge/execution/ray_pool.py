"""Trials on Ray actors: each builds its bench once and runs one trial at a time, locally or on a cluster.

Ray's behavior under failures (measured with Ray 2.60), and the response here:
a dead, killed or unreachable worker fails the call in flight and restarts with `max_restarts=-1`, so the
trial runs again on another worker and the failed one is pinged until it answers. `ActorDiedError` means that a bench
cannot be built only if `actor_init_failed` is set: a node that is preempted or away for longer also raises it, at
every call until a node with room joins; then the same handle works again. A hanging worker ignores `ray.cancel` and
must be killed.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from evomerge.execution._guard import Bench
from evomerge.execution._head import Head
from evomerge.execution._jobs import Deadline, Job
from evomerge.execution._worker import Actor, Worker, raised, signal_handlers_kept
from evomerge.execution.base import ExecutorError
from evomerge.trial import Outcome, Trial

# Ray reads these at import, so they are set here and nowhere else; the user's own values stay. If other code imported
# Ray first, they would reach its servers but not this process, which could then not authenticate.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A local cluster listens on 127.0.0.1 only; joining a cluster elsewhere works as before.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Without this, a driver does not send its token to a cluster given by address.
    "RAY_AUTH_MODE": "token",
    # Ray prints "(raylet) A worker died ..." on stdout, which is reserved for our own output.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}
if "ray" not in sys.modules:
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})

import ray  # noqa: E402
from ray.exceptions import ActorDiedError, RayError, RayTaskError  # noqa: E402

#: Seconds between checks of hanging and lost workers; outcomes do not wait for them.
_TICK = 0.5

#: Only coefficients and scores pass through Ray's object store; this is close to the minimum size it accepts.
_OBJECT_STORE_BYTES = 100 << 20


def start(address: str | None = None, cpus: float | None = None) -> bool:
    """Connect this process to Ray; return False if it was already connected.

    address: a running cluster; None starts a local one, visible from this machine only, with `cpus` CPUs.
    The previous signal handlers stay in force (Ray's own would end the driver on SIGTERM).
    Raises ExecutorError if the cluster cannot be reached.
    """
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": cpus,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    with signal_handlers_kept():
        try:
            ray.init(**options)
        except (KeyboardInterrupt, SystemExit):
            ray.shutdown()
            raise
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ExecutorError(f"Cannot connect to Ray at {address or 'this machine'}: {error}") from error
    return True


def stop() -> None:
    """Disconnect this process, and stop the Ray instance that `start` started here."""
    ray.shutdown()


class RayPool:
    """Runs trials on Ray actors.

    Args:
        make_bench: Builds a worker's bench, once per process; must be picklable.
        workers: Number of workers, at least 1.
        cpus_per_worker: CPUs, and hence threads, of a worker.
        gpus_per_worker: GPUs of a worker.
        address: As for `start`; a Ray instance that is already connected is used and left running.
        startup_timeout: Seconds to wait for workers, at the start and when all are gone.
        trial_timeout: Seconds until a trial counts as hanging; by default derived from earlier trials, see `Deadline`.
        clock: Returns monotonic seconds, for the duration of trials.

    Raises:
        ExecutorError: A bench cannot be built, or no worker starts.
    """

    def __init__(
        self,
        make_bench: Callable[[], Bench],
        *,
        workers: int,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        address: str | None = None,
        startup_timeout: float = 300.0,
        trial_timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if workers < 1:
            raise ExecutorError(f"A pool needs at least one worker; workers is {workers}.")
        self._startup_timeout = startup_timeout
        self._deadline = Deadline(trial_timeout)
        self._clock = clock
        self._last_loss = ""
        self._queue: deque[Job] = deque()
        self._done: deque[Outcome] = deque()
        self._workers: list[Worker] = []
        self._closed = False
        self._started = start(address, cpus=max(os.cpu_count() or 1, workers * cpus_per_worker))
        self._head = Head(ray.get_runtime_context().gcs_address)
        actor = ray.remote(Actor).options(
            num_cpus=cpus_per_worker,
            num_gpus=gpus_per_worker,
            max_restarts=-1,
            max_task_retries=0,
        )
        threads = max(1, int(cpus_per_worker))
        try:
            for index in range(workers):
                self._workers.append(Worker(f"ray-{index}", actor.remote(make_bench, threads), clock))
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        """Number of workers that are alive."""
        return sum(worker.pid is not None for worker in self._workers)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are alive, on any machine."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def submit(self, trial: Trial) -> None:
        """Start a trial on a free worker. Raises ExecutorError if all workers are busy."""
        if self._closed:
            raise ExecutorError(f"Trial {trial.number} was submitted to a closed executor.")
        if self._in_flight() >= len(self._workers):
            raise ExecutorError(f"Trial {trial.number} was submitted while all {self.slots} slots are taken.")
        self._queue.append(Job(trial))
        self._dispatch()

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the next finished trial; None if the time is up, nothing runs, or a slot became free again.

        Raises ExecutorError if a bench cannot be rebuilt, or no worker comes back.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._done and self._workers:
            self._dispatch()
            slots = self.slots
            idle = self._in_flight() == 0 and slots > 0
            # Even with nothing to wait for, a check brings lost workers back.
            rest = _TICK if deadline is None else max(0.0, deadline - time.monotonic())
            self._poll(0.0 if idle else min(_TICK, rest))
            grown = self.slots > max(slots, self._in_flight())
            late = deadline is not None and time.monotonic() >= deadline
            if not self._done and (idle or grown or late):
                return None
        return self._done.popleft() if self._done else None

    def close(self) -> None:
        """Kill the workers, and stop Ray if it was started here."""
        self._closed = True
        if ray.is_initialized() and not self._head.lost:  # without its head, Ray would wait and then end this process
            for worker in self._workers:
                ray.kill(worker.handle)
            if self._started:
                stop()
        self._workers.clear()
        self._queue.clear()
        self._done.clear()
        self._started = False

    def _in_flight(self) -> int:
        return len(self._queue) + sum(worker.job is not None for worker in self._workers)

    def _dispatch(self) -> None:
        for worker in self._workers:
            if self._queue and worker.pid is not None and worker.call is None:
                worker.run(self._queue.popleft())

    def _wait_for_workers(self) -> None:
        self._last_alive = time.monotonic()
        for worker in self._workers:
            worker.ping()
        deadline = time.monotonic() + self._startup_timeout
        while self.slots < len(self._workers) and time.monotonic() < deadline:
            self._poll(_TICK)

    def _poll(self, seconds: float) -> None:
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        ready, others = ray.wait(list(calls), timeout=seconds) if calls else ([], [])
        if ready and others:
            ready += ray.wait(others, num_returns=len(others), timeout=0)[0]
        for call in ready:
            self._settle(calls[call])
        self._look_after_workers()

    def _settle(self, worker: Worker) -> None:
        call, job = worker.call, worker.job
        worker.call = worker.job = None
        try:
            value = ray.get(call)
        except RayTaskError as error:  # the bench catches a candidate's errors; this outcome cannot be sent
            if job is None:
                raise ExecutorError(f"Worker {worker.name} cannot answer: {raised(error)}") from error
            cause = error.cause
            self._finish(worker, job, job.failed(type(cause).__name__, str(cause), str(error)))
        except RayError as error:
            if isinstance(error, ActorDiedError) and error.actor_init_failed:
                raise ExecutorError(f"The bench of worker {worker.name} cannot be built: {raised(error)}") from error
            self._last_loss = " ".join(str(error).split())
            worker.lose()
            if job is not None:
                self._retry(worker, job, _lost(job, worker, error))
        else:
            if job is None:
                worker.answered(*value)
            else:
                if not job.trial.is_part:  # parts are so much shorter that whole trials would time out
                    self._deadline.note(self._clock() - worker.since)
                self._finish(worker, job, value)

    def _retry(self, worker: Worker, job: Job, outcome: Outcome | None) -> None:
        if outcome is None:
            self._queue.appendleft(job)
        else:
            self._finish(worker, job, outcome)

    def _finish(self, worker: Worker, job: Job, outcome: Outcome) -> None:
        events = (*job.events, *outcome.events)
        self._done.append(replace(outcome, worker=outcome.worker or worker.name, events=events))

    def _look_after_workers(self) -> None:
        self._head.check()
        now, limit = self._clock(), self._deadline.seconds
        for worker in self._workers:
            if worker.pid is None and worker.call is None and now >= worker.since + _TICK:
                worker.ping()
            elif worker.job is not None and limit is not None and now >= worker.since + limit:
                ray.kill(worker.handle, no_restart=False)
                job = worker.job
                worker.lose()
                self._retry(worker, job, job.timed_out(worker.name, limit))
        if self.slots:
            self._last_alive = time.monotonic()
        elif time.monotonic() >= self._last_alive + self._startup_timeout:
            why = f" The last error was: {self._last_loss}" if self._last_loss else ""
            raise ExecutorError(
                f"No worker answered for {self._startup_timeout:g} s; Ray has {ray.cluster_resources()}. Check that "
                f"the machines are up and large enough, then use --resume: all recorded trials are safe.{why}"
            )


def _lost(job: Job, worker: Worker, error: RayError) -> Outcome | None:
    """Record why a worker was lost while running a job; return the outcome if there is no retry left."""
    if isinstance(error, ActorDiedError) and error.preempted:
        job.preempted(worker.name)
        return None
    return job.worker_died(worker.name, worker.why_died(str(error)))
