"""What the driver costs per candidate: time of workers that neither merge nor score, in percent of their time.

`python -m tests.benchmarks.bench_driver [--trials N]`. One run of a real search over tiny trained models with lm-eval
tasks in this process and on Ray; and, to see the driver bare, over bare tensors with closed-form scores.

`--alone` measures how many workers the driver alone keeps busy: slots whose trials end after 200 ms. There are no
workers, merges, Ray and live view; study, disk, loop and optimizers are those of a real search. Time passes by the CPU
time of the driver, plus what it waits for the disk and for trials: other processes take none of it, and nothing sleeps.
"""

import argparse
import functools
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Scores
from evomerge.budget import Budget
from evomerge.config import load_config
from evomerge.feedback import new_optimizer, replay
from evomerge.launch import plan as planning
from evomerge.launch.workers import start_executor
from evomerge.loop import Progress, search
from evomerge.objective import Objective
from evomerge.plugins import PluginSpec
from evomerge.study import Study
from evomerge.study.writer import Files
from evomerge.trial import Outcome, Trial
from experiments.tiny_models.prepare import prepare
from experiments.tiny_models.sets import TINY
from tests.conftest import CACHE
from tests.toys import search_file


@dataclass(frozen=True)
class Cost:
    """Seconds of one search: wall from the first outcome to the last, and of workers by stage in that time."""

    slots: int
    trials: int
    wall: float
    stages: Mapping[str, float]

    @property
    def outside(self) -> float:
        """Share of the workers' time that went to neither merging nor scoring."""
        return 1.0 - sum(self.stages.values()) / (self.wall * self.slots)

    def row(self, label: str) -> str:
        """One line of the table."""
        worked = sum(self.stages.values())
        merging = self.stages.get("merge", 0.0) / worked
        outside = 1e3 * self.outside * self.wall * self.slots / self.trials
        return (
            f"{label:32s} {self.slots:5d} {1e3 * self.wall / self.trials:14.1f} {100 * self.outside:9.1f} %"
            f" {outside:12.2f} {100 * merging:8.1f} %"
        )


def measure(settings: dict[str, object], trials: int) -> Cost:
    """Run one search and account for the time of its workers after the first outcome."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "search.yaml"
        file.write_text(strict_yaml.dump(settings | {"study": str(Path(name) / "study"), "optimizer": "random"}))
        config = load_config(file)
        plan = planning.prepare(config)
        executor = start_executor(config, plan.spec, plan.needs)
        ends: list[tuple[float, Mapping[str, float]]] = []

        def note(progress: Progress) -> None:
            if progress.outcome is not None:
                ends.append((time.perf_counter(), progress.outcome.seconds))

        with closing(Study.create(Path(config.study), {}, {})) as study:
            optimizer = planning.build_optimizer(config, plan)
            search(study, optimizer, executor, plan.objective, plan.planned, Budget(trials), progress=note)
        slots = executor.slots
        executor.close()
    # The first outcomes carry what is built once (tasks, prompts, tables): they are not a candidate's cost.
    counted = ends[2 * slots :]
    stages: dict[str, float] = {}
    for _, seconds in counted:
        for stage, spent in seconds.items():
            stages[stage] = stages.get(stage, 0.0) + spent
    return Cost(slots, len(counted), counted[-1][0] - ends[2 * slots - 1][0], stages)


def trained(executor: str) -> dict[str, object]:
    """A search over the tiny trained models with two lm-eval tasks."""
    root = CACHE / "tiny-models"
    prepare(root, TINY, say=print)
    tasks = {
        name: {"evaluator": "lm_eval_task", "task": name, "include_path": str(root / "lm_eval")}
        for name in ("count", "sort")
    }
    experts = {name: str(root / name) for name in TINY.experts}
    return {"base": str(root / "base"), "experts": experts, "dtype": "float32", "tasks": tasks, "executor": executor}


SECONDS, EXAMPLES = 0.2, 100
#: Answers of the multiple-choice task, whose log-likelihoods the ledger keeps.
ANSWERS = 4


class Clock:
    """Seconds of the driver: its CPU time, and what it waits."""

    def __init__(self) -> None:
        self._waited = 0.0

    def now(self) -> float:
        return time.thread_time() + self._waited

    def wait(self, seconds: float) -> None:
        self._waited += max(0.0, seconds)


class Disk(Files):
    """System calls of a ledger; waiting for the disk takes time of the clock."""

    def __init__(self, clock: Clock) -> None:
        self.seconds = 0.0
        self._clock = clock

    def fsync(self, descriptor: int) -> None:
        begin, worked = time.perf_counter(), time.thread_time()
        super().fsync(descriptor)
        waited = time.perf_counter() - begin - (time.thread_time() - worked)
        self.seconds += waited
        self._clock.wait(waited)


class Timers:
    """An executor without workers: every trial ends SECONDS after it was submitted."""

    def __init__(self, clock: Clock, slots: int, dimension: int) -> None:
        self.slots = slots
        self.spans: list[tuple[float, float]] = []
        self._clock = clock
        self._running: deque[tuple[float, Trial]] = deque()
        rng = np.random.default_rng(0)
        self._optima = rng.uniform(0.3, 0.7, (3, dimension))
        self._noise = rng.normal(0.0, 0.3, (3, EXAMPLES))
        self._choices = tuple(rng.normal(-20.0, 5.0, (EXAMPLES, ANSWERS)))
        self._ids = tuple(f"example-{n:04d}" for n in range(EXAMPLES))

    def submit(self, trial: Trial) -> None:
        now = self._clock.now()
        self.spans.append((now, now + SECONDS))
        self._running.append((now + SECONDS, trial))

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        if not self._running:
            return None
        rest = self._running[0][0] - self._clock.now()
        if timeout is not None and rest > timeout:
            self._clock.wait(timeout)
            return None
        self._clock.wait(rest)
        _, trial = self._running.popleft()
        means = -np.sum((np.asarray(trial.x) - self._optima) ** 2, axis=1)
        values = self._noise + means[:, None]
        scores = {
            f"task{n}": Scores(self._ids, values[n], self._choices if n == 0 else None) for n in range(len(values))
        }
        return Outcome(trial.number, scores, seconds={"merge": 0.05, "evaluate": SECONDS - 0.05}, worker="timer")

    def close(self) -> None:
        self._running.clear()

    def busy(self, begin: float, end: float) -> float:
        """Share of the slots' time between two moments in which a trial ran."""
        return sum(max(0.0, min(e, end) - max(b, begin)) for b, e in self.spans) / (self.slots * (end - begin))


class Stopwatch:
    """Seconds by name, each without those of what is timed inside it. clock: of the wall, or of the thread's CPU."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._inside = [0.0]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is timed."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            begin = self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent = self._clock() - begin
                self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._inside.pop()
                self._inside[-1] += spent

        return call

    def watch(self, name: str, owner: object, methods: Sequence[str]) -> None:
        """Time methods of an object under one name."""
        for method in methods:
            setattr(owner, method, self.timed(name, getattr(owner, method)))


def measure_alone(name: str, slots: int, dimension: int, seconds: float) -> str:
    """Search with one optimizer for some seconds without workers; return a line of the table."""
    objective = Objective({f"task{n}": 1.0 for n in range(3)})
    clock, watch = Clock(), Stopwatch(time.thread_time)
    executor, disk = Timers(clock, slots, dimension), Disk(clock)

    def optimizer() -> Any:
        return new_optimizer(PluginSpec(name), objective, dimension=dimension, seed=0, start=None)

    asking = optimizer()
    watch.watch("ask", asking, ["ask"])
    watch.watch("tell", asking, ["tell"])
    watch.watch("wait", executor, ["next_outcome"])
    with tempfile.TemporaryDirectory() as folder:
        with closing(Study.create(Path(folder), {}, {}, files=disk, clock=clock.now)) as study:
            watch.watch("record", study, ["ask", "tell", "event", "_save"])
            watch.seconds.clear()
            disk.seconds = 0.0
            begin = time.thread_time()
            search(study, asking, executor, objective, [], Budget(hours=seconds / 3600))
            spent = time.thread_time() - begin
        begin = time.thread_time()
        replay(Study.read(Path(folder)), optimizer(), objective)
        replayed = time.thread_time() - begin
    trials = len(executor.spans)
    busy = executor.busy(executor.spans[0][0], executor.spans[-1][0])
    in_turn = [watch.seconds.get(stage, 0.0) for stage in ("ask", "tell", "record")]
    rest = spent - sum(in_turn) - watch.seconds["wait"]
    costs = (*in_turn, rest, replayed, disk.seconds)
    row = f"{name:10s}{slots:6d}{dimension:7d}{trials:8d}{100 * busy:7.1f} %"
    return row + "".join(f"{1e3 * cost / trials:8.2f}" for cost in costs)


def alone(names: Sequence[str], slots: Sequence[int], dimensions: Sequence[int], seconds: float) -> None:
    """Print how busy the driver alone keeps the slots, and what it does meanwhile."""
    print(f"slots of {1e3 * SECONDS:.0f} ms, 3 tasks of {EXAMPLES} examples")
    print("ms of the driver's CPU per trial; replay: of a resume; fsync: waited for")
    columns = "".join(f"{stage:>8s}" for stage in ("ask", "tell", "record", "rest", "replay", "fsync"))
    print(f"{'optimizer':10s}{'slots':>6s}{'coeff.':>7s}{'trials':>8s}{'busy':>9s}{columns}")
    for name, dimension, n in itertools.product(names, dimensions, slots):
        print(measure_alone(name, n, dimension, seconds), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--alone", nargs="*", metavar="OPTIMIZER", help="the driver alone; default: cma_es tpe gp")
    parser.add_argument("--slots", type=int, nargs="*", default=[64], help="with --alone")
    parser.add_argument("--coefficients", type=int, nargs="*", default=[72], help="with --alone")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each optimizer with --alone")
    options = parser.parse_args()
    if options.alone is not None:
        names = options.alone or ("cma_es", "tpe", "gp")
        alone(names, options.slots, options.coefficients, options.seconds)
        return
    trials = options.trials
    print(f"{'search':32s} {'slots':>5s} {'ms/candidate':>14s} {'outside':>11s} {'ms outside':>12s} {'merging':>10s}")
    for executor in ("serial", "ray"):
        print(measure(trained(executor), trials).row(f"trained models, {executor}"), flush=True)
    for executor in ("serial", "ray"):
        with tempfile.TemporaryDirectory() as name:
            settings = search_file(Path(name), executor=executor)
            print(measure(settings, 5 * trials).row(f"closed form, {executor}"), flush=True)


if __name__ == "__main__":
    main()
