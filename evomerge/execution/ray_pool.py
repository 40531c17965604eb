"""Trials on Ray actors: each builds its bench once and runs one trial at a time, locally or on a cluster.

Ray's behavior under failures (measured with Ray 2.60), and the response here:
a dead, killed or unreachable worker fails the call in flight and restarts with `max_restarts=-1`, so the
trial runs again on another worker and the failed one is pinged until it answers. `ActorDiedError` means that a bench
cannot be built only if `actor_init_failed` is set: a node that is preempted or away for longer also raises it, at
every call until a node with room joins; then the same handle works again. A hanging worker ignores `ray.cancel` and
must be killed. A node that is about to be taken away is announced; new actors avoid it.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evomerge.execution._guard import Bench
from evomerge.execution._jobs import Deadline, Job
from evomerge.execution._worker import Actor, Worker, raised
from evomerge.execution.base import ExecutorError
from evomerge.execution.nodes import Node, Resources, capacity
from evomerge.execution.ray_cluster import Connection, connect, node_of_actor, own_node
from evomerge.trial import Outcome, Trial

#: Seconds between checks of hanging and lost workers; outcomes do not wait for them.
_TICK = 0.5
#: Seconds to wait for workers, at the start and when all are gone: of a private Ray; of a cluster, where machines are
#: ordered and started, and where preempted ones may be sold out for hours.
_LOCAL_PATIENCE, _CLUSTER_PATIENCE = 300.0, 24 * 3600.0
#: Seconds that a search on a cluster waits for the other workers once it has one; they join it later.
_STRAGGLERS = 30.0
#: Seconds after a worker has started until a cluster's free resources surely are without it.
_SETTLED = 6.0
#: Seconds without any worker after which it is said, and again after each doubling.
_QUIET = 15.0
#: Deaths for lack of memory after which half of the workers are given up.
MEMORY_DEATHS = 2


class RayPool:
    """Runs trials on Ray actors.

    Args:
        make_bench: Builds a worker's bench, once per process; must be picklable.
        workers: Number of workers, at least 1; None for as many as the cluster has room for at any time.
        cpus_per_worker: CPUs, and hence threads, of a worker.
        gpus_per_worker: GPUs of a worker.
        memory_per_worker: Bytes of a node's memory that a worker takes; 0 does not limit workers by memory.
        connection: To a cluster; None starts a private Ray, and stops it in the end.
        startup_timeout: Seconds to wait for workers, at the start and when all are gone; by default five minutes, on a
            cluster a day.
        trial_timeout: Seconds until a trial counts as hanging; by default derived from earlier trials, see `Deadline`.
        say: Called with sentences about nodes that join, leave, or are not there.
        clock: Returns monotonic seconds, for the duration of trials.

    Raises:
        ExecutorError: A bench cannot be built, or no worker starts.
    """

    def __init__(
        self,
        make_bench: Callable[[], Bench],
        *,
        workers: int | None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        memory_per_worker: float = 0,
        connection: Connection | None = None,
        startup_timeout: float | None = None,
        trial_timeout: float | None = None,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if workers is not None and workers < 1:
            raise ExecutorError(f"A pool needs at least one worker; workers is {workers}.")
        self._wanted, self._say, self._clock = workers, say, clock
        self._deadline = Deadline(trial_timeout)
        self._last_loss = ""
        self._memory_deaths = self._surplus = 0
        self._queue: deque[Job] = deque()
        self._done: deque[Outcome] = deque()
        self._workers: list[Worker] = []
        self._hired = 0
        self._nodes: dict[str, Node] = {}
        self._unfit: set[str] = set()  # nodes where a bench could not be built
        self._closed = False
        cores = os.cpu_count() or 1
        self._connection = connection or connect(cpus=max(cores, (workers or 1) * cpus_per_worker))
        self._on_cluster = self._connection.address is not None
        self._startup_timeout = startup_timeout or (_CLUSTER_PATIENCE if self._on_cluster else _LOCAL_PATIENCE)
        self._takes = Resources(cpus_per_worker, gpus_per_worker, memory_per_worker)
        self._actor = ray.remote(Actor)
        self._new = (make_bench, max(1, int(cpus_per_worker)), own_node)
        try:
            self._staff(self._connection.nodes)
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        """Number of workers that are alive, without idle ones on nodes that are about to go."""
        alive = [worker for worker in self._workers if worker.pid is not None]
        return sum(worker.job is not None or not self._is_leaving(worker) for worker in alive)

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
        if ray.is_initialized() and not self._connection.head.lost:  # without it, Ray would end this process
            for worker in self._workers:
                ray.kill(worker.handle)
        self._connection.close()
        self._workers.clear()
        self._queue.clear()
        self._done.clear()

    def _in_flight(self) -> int:
        return len(self._queue) + sum(worker.job is not None for worker in self._workers)

    def _dispatch(self) -> None:
        self._retire()
        for worker in self._workers:
            if self._queue and worker.pid is not None and worker.call is None and not self._is_leaving(worker):
                worker.run(self._queue.popleft())

    def _staff(self, nodes: Sequence[Node]) -> None:
        """Fit the workers to the nodes that are there: start some where there is room, release those that must go."""
        self._tell_changes(nodes)
        self._nodes = {node.id: node for node in nodes}
        for worker in [each for each in self._workers if each.job is None and self._is_leaving(each)]:
            self._release(worker)
        fit = [node for node in nodes if not node.draining and node.id not in self._unfit]
        places = [(number, node) for node in fit for number in range(node.free.holds(self._takes))]
        room = deque(node for _, node in sorted(places, key=lambda place: place[0]))  # spread over the nodes
        starting = [each for each in self._workers if each.pid is None or self._clock() < each.alive_since + _SETTLED]
        missing = max(len(room) - len(starting), 1 - len(self._workers))
        if self._wanted is not None:
            missing = self._wanted - len(self._workers)
        for _ in range(missing):
            self._hire(room.popleft() if room else None)

    def _hire(self, node: Node | None) -> None:
        """Start a worker, on this node if it still has room."""
        options: dict[str, Any] = {"num_cpus": self._takes.cpus, "num_gpus": self._takes.gpus}
        if self._takes.memory:
            options["memory"] = int(self._takes.memory)
        if node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node.id, soft=True)
        handle = self._actor.options(max_restarts=-1, max_task_retries=0, **options).remote(*self._new)
        self._workers.append(Worker(f"ray-{self._hired}", handle, self._clock))
        self._hired += 1
        self._workers[-1].ping()

    def _release(self, worker: Worker) -> None:
        ray.kill(worker.handle)
        self._workers.remove(worker)

    def _is_leaving(self, worker: Worker) -> bool:
        """Return whether a worker must get no more trials, since its node is about to go."""
        node = self._nodes.get(worker.node)
        return node is not None and node.draining

    def _tell_changes(self, nodes: Sequence[Node]) -> None:
        if not self._nodes:
            return
        left = (
            f"{capacity(nodes, self._takes)} of {capacity(list(self._nodes.values()), self._takes)} workers have room"
        )
        now = {node.id: node for node in nodes}
        for node in self._nodes.values():
            if node.id not in now:
                self._say(f"node {node.name} is gone; {left}")
            elif now[node.id].draining and not node.draining:
                self._say(f"node {node.name} will be taken away: running candidates go on, no new ones start; {left}")
        for node in nodes:
            if node.id not in self._nodes:
                self._say(f"node {node.name} has joined, with {node.total}")

    def _wait_for_workers(self) -> None:
        self._last_alive, self._quiet = time.monotonic(), _QUIET
        begin = time.monotonic()
        while self.slots < len(self._workers) and time.monotonic() < begin + self._startup_timeout:
            if self._on_cluster and self.slots and time.monotonic() > begin + _STRAGGLERS:
                break
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
                self._give_up(worker, job, error)
                return
            self._last_loss = " ".join(str(error).split())
            death = worker.why_died(str(error))
            lost = None if job is None else self._lost(job, worker, error, death.reason)
            worker.lose()
            if job is not None:
                if death.memory:
                    self._short_of_memory(job, worker)
                self._retry(worker, job, lost)
            if self._is_leaving(worker) and worker in self._workers:
                self._release(worker)
                self._staff(self._connection.nodes)
        else:
            if job is None:
                worker.answered(*value)
            else:
                if not job.trial.is_part:  # parts are so much shorter that whole trials would time out
                    self._deadline.note(self._clock() - worker.since, value.seconds)
                self._finish(worker, job, value)

    def _short_of_memory(self, job: Job, worker: Worker) -> None:
        """Count a death for lack of memory; after MEMORY_DEATHS of them, half of the workers go, once."""
        self._memory_deaths += 1
        kept = (len(self._workers) + 1) // 2
        if self._memory_deaths != MEMORY_DEATHS or kept == len(self._workers):
            return
        self._surplus, self._wanted = len(self._workers) - kept, kept
        job.fewer_workers(
            worker.name,
            f"{kept} of {len(self._workers)} workers from now on: {MEMORY_DEATHS} of them died because memory ran out. "
            f"Set `workers: {kept}` to begin so",
        )
        self._retire()

    def _retire(self) -> None:
        """Let surplus workers go that run nothing, first those that are lost."""
        for worker in sorted(self._workers, key=lambda each: each.pid is not None):
            if self._surplus and worker.job is None:
                self._release(worker)
                self._surplus -= 1

    def _retry(self, worker: Worker, job: Job, outcome: Outcome | None) -> None:
        if outcome is None:
            self._queue.appendleft(job)
        else:
            self._finish(worker, job, outcome)

    def _finish(self, worker: Worker, job: Job, outcome: Outcome) -> None:
        events = (*job.events, *outcome.events)
        self._done.append(outcome.changed(worker=outcome.worker or worker.name, events=events))

    def _give_up(self, worker: Worker, job: Job | None, error: ActorDiedError) -> None:
        """Drop a worker whose bench cannot be built on its node. Raises ExecutorError if it is the last one."""
        if not self._on_cluster or len(self._workers) == 1:
            raise ExecutorError(f"The bench of worker {worker.name} cannot be built: {raised(error)}") from error
        identity = node_of_actor(error.actor_id)
        self._workers.remove(worker)
        if self._wanted is not None:
            self._wanted -= 1
        if job is not None:
            self._queue.appendleft(job)
        if identity not in self._unfit:
            self._unfit.add(identity)
            name = self._nodes[identity].name if identity in self._nodes else "of the cluster"
            self._say(f"no worker starts on node {name} any more: {raised(error)}")

    def _lost(self, job: Job, worker: Worker, error: RayError, reason: str) -> Outcome | None:
        """Record why a worker was lost while running a job; return the outcome if there is no retry left."""
        if (isinstance(error, ActorDiedError) and error.preempted) or self._is_leaving(worker):
            node = self._nodes.get(worker.node)
            job.preempted(worker.name, "" if node is None else node.name)
            return None
        return job.worker_died(worker.name, reason)

    def _look_after_workers(self) -> None:
        self._connection.head.check()
        nodes = self._connection.news()
        if nodes is not None:
            self._staff(nodes)
        self._retire()
        now, limit = self._clock(), self._deadline.seconds
        for worker in self._workers:
            if worker.pid is None and worker.call is None and now >= worker.since + _TICK:
                worker.ping()
            elif worker.job is not None and limit is not None and now >= worker.since + limit:
                place, stack = worker.where(), worker.stack()
                where = "" if place is None else self._deadline.describe(*place)
                ray.kill(worker.handle, no_restart=False)
                job = worker.job
                worker.lose()
                self._retry(worker, job, job.timed_out(worker.name, limit, where, stack))
        silent = time.monotonic() - self._last_alive
        if self.slots:
            self._last_alive, self._quiet = time.monotonic(), _QUIET
        elif silent >= self._startup_timeout:
            why = f" The last error was: {self._last_loss}" if self._last_loss else ""
            raise ExecutorError(
                f"No worker answered for {self._startup_timeout:g} s; {self._have()}. Check that the machines are up "
                f"and large enough, then use --resume: all recorded trials are safe.{why}"
            )
        elif self._on_cluster and silent >= self._quiet:
            self._quiet *= 2
            room = capacity(self._connection.nodes, self._takes)
            waits = (
                f"{len(self._workers)} are starting, or wait until others leave room" if room else "waiting for nodes"
            )
            self._say(f"no worker for {silent:.0f} s: {self._have()}; {waits}")

    def _have(self) -> str:
        """Compare what a worker takes with what the nodes have."""
        if not self._on_cluster:
            there = ray.cluster_resources()
            return (
                f"a worker takes {self._takes}; Ray has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
            )
        nodes = "; ".join(f"{node.name}: {node.free} free of {node.total}" for node in self._connection.nodes)
        return f"a worker takes {self._takes}; of the cluster there are {nodes or 'no nodes'}"
