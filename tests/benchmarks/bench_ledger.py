"""What long studies cost: bytes on the disk, and CPU seconds to read, resume and show them.

`python -m tests.benchmarks.bench_ledger [--trials N] [--optimizer NAME ...] [--commands NAME ...]`: a study of many
candidates with made-up right and wrong answers to two tasks of some 500 examples, as if its driver had been killed.
Commands run in processes of their own, start of Python and imports included: `evomerge --help` shows what these take.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Scores
from evomerge.config import SearchConfig, load_config
from evomerge.feedback import replay
from evomerge.launch import plan as planning
from evomerge.launch.launch import environment
from evomerge.objective.spec import record_objective
from evomerge.study import Study
from evomerge.study.lines import FILE
from evomerge.trial import Outcome, Trial
from tests.contracts.study import Unsynced
from tests.toys import search_file

EXAMPLES, TOGETHER = 1000, 500


def search(folder: Path, optimizer: str, trials: int) -> Path:
    """Write a search file with a budget of twice as many trials."""
    tasks = {
        name: {"evaluator": "synthetic", "task": n, "n_examples": EXAMPLES} for n, name in enumerate(("one", "two"))
    }
    shares = {"search": 0.5, "select": 0.25, "report": 0.25}
    budget = {"trials": 2 * trials}
    settings = search_file(folder, optimizer=optimizer, space="tensorwise", tasks=tasks, split=shares, budget=budget)
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings))
    return file


def write(config: SearchConfig, plan: planning.Plan, trials: int) -> None:
    """Write a study whose driver was killed after some candidates."""
    created = Study.create(
        Path(config.study), config.identity(), environment(), search_file=config.text(), files=Unsynced()
    )
    with closing(created) as study:
        record_objective(study, plan.objective)
        for batch in batches([*plan.planned, *candidates(plan.space.dimension, len(plan.planned), trials)]):
            with study.batch():
                for trial in batch:
                    study.ask(trial)
                for trial in batch:
                    tell(study, trial, plan)


def candidates(dimension: int, begin: int, trials: int) -> Iterator[Trial]:
    rng = np.random.default_rng(0)
    for number in range(begin, trials):
        yield Trial(number, rng.random(dimension))


def batches(trials: Sequence[Trial]) -> Iterator[Sequence[Trial]]:
    for begin in range(0, len(trials), TOGETHER):
        yield [trial.changed(number=begin + n) for n, trial in enumerate(trials[begin : begin + TOGETHER])]


def tell(study: Study, trial: Trial, plan: planning.Plan) -> None:
    rng = np.random.default_rng(trial.number)
    scores = {}
    for task, ids in plan.search_examples.ids.items():
        right = rng.random(len(ids)) < rng.uniform(0.4, 0.8)
        scores[task] = Scores(ids, right.astype(np.float64))
    seconds = {"merge": 0.1, **{f"evaluate:{task}": 0.2 for task in scores}}
    outcome = Outcome(trial.number, scores, seconds=seconds, worker="w")
    study.tell(outcome, [float(loss) for loss in plan.objective.losses(scores)])


def command(*arguments: object) -> tuple[float, float]:
    """CPU and wall seconds of a command in a process of its own."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "evomerge.cli", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measure(optimizer: str, trials: int, folder: Path, commands: Sequence[str]) -> None:
    """Write a study, and print what it costs."""
    config = load_config(search(folder, optimizer, trials))
    plan = planning.prepare(config)
    write(config, plan, trials)
    study_folder = Path(config.study)
    size = (study_folder / FILE).stat().st_size
    print(f"{optimizer}, {trials} trials, {plan.space.dimension} coordinates, {plan.search_examples.total} examples")
    print(f"  {size / 1e6:.1f} MB, {size / trials:.0f} bytes per trial")
    begin = time.process_time()
    study = Study.read(study_folder)
    read = time.process_time() - begin
    begin = time.process_time()
    replay(study, planning.build_optimizer(config, plan), plan.objective)
    told = time.process_time() - begin
    print(f"  resume: {read + told:.2f} s of CPU; {read:.2f} to read, {told:.2f} to tell the optimizer", flush=True)
    for name in commands:
        output = ("-o", folder / "report.html") if name == "report" else ()
        cpu, wall = command(name, study_folder, *output)
        print(f"  {name}: {cpu:.2f} s of CPU, {wall:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--optimizer", nargs="*", default=["random", "cma_es"])
    parser.add_argument("--commands", nargs="*", default=["status"])
    options = parser.parse_args()
    cpu, wall = command("--help")
    print(f"evomerge --help: {cpu:.2f} s of CPU, {wall:.2f} s")
    for optimizer in options.optimizer:
        with tempfile.TemporaryDirectory() as folder:
            measure(optimizer, options.trials, Path(folder), options.commands)


if __name__ == "__main__":
    main()
