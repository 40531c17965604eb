"""What the driver costs per candidate: time of workers that neither merge nor score, in percent of their time.

`python -m tests.benchmarks.bench_driver [--trials N]`. One run of a real search over tiny trained models with lm-eval
tasks in this process and on Ray; and, to see the driver bare, over bare tensors with closed-form scores.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from evaluators import _strict_yaml as strict_yaml
from evomerge.budget import Budget
from evomerge.config import load_config
from evomerge.launch import plan as planning
from evomerge.launch.placement import start_executor
from evomerge.loop import Progress, search
from evomerge.study import Study
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=80)
    trials = parser.parse_args().trials
    print(f"{'search':32s} {'slots':>5s} {'ms/candidate':>14s} {'outside':>11s} {'ms outside':>12s} {'merging':>10s}")
    for executor in ("serial", "ray"):
        print(measure(trained(executor), trials).row(f"trained models, {executor}"), flush=True)
    for executor in ("serial", "ray"):
        with tempfile.TemporaryDirectory() as name:
            settings = search_file(Path(name), executor=executor)
            print(measure(settings, 5 * trials).row(f"closed form, {executor}"), flush=True)


if __name__ == "__main__":
    main()
