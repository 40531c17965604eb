"""`python -m experiments.compare_optimizers`: every optimizer on the demo models, held-out score against cost.

Each study runs in one slot of its own process, so that it is exactly repeatable; studies that are there are taken up.
The held-out score at a cost is that of the best candidate so far (by the search split) on the report split.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from evomerge.budget import Budget
from evomerge.config import SearchConfig, load_config
from evomerge.execution.serial import SerialExecutor
from evomerge.launch.launch import open_study
from evomerge.launch.plan import build_optimizer, prepare
from evomerge.loop import score_all, search
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore
from evomerge.plugins import PluginSpec
from evomerge.study import Entry, Study
from evomerge.trial import CANARY, Trial

HERE = Path(__file__).parent / "01-optimizers"
OPTIMIZERS = {
    "random": PluginSpec("random"),
    "sobol": PluginSpec("sobol"),
    "cma_es": PluginSpec("cma_es"),
    "cma_es (sakana)": PluginSpec("cma_es", {"preset": "sakana"}),
    "cma_es (mergekit_evolve)": PluginSpec("cma_es", {"preset": "mergekit_evolve"}),
    "sep_cma_es": PluginSpec("sep_cma_es"),
    "tpe": PluginSpec("tpe"),
    "gp": PluginSpec("gp"),
    "nsga2": PluginSpec("nsga2"),
    "cem": PluginSpec("cem"),
    "cqr": PluginSpec("cqr"),
    "carbs": PluginSpec("carbs"),
}
COSTS = (25, 50, 100, 150)


def run(file: Path, out: Path, name: str, seed: int) -> list[float]:
    """One study; the held-out score at every cost."""
    base = load_config(file)
    config = base.model_copy(update={"optimizer": OPTIMIZERS[name], "seed": seed})
    config = config.model_copy(update={"study": out / f"{config.optimizer.kind}-{_slug(name)}-{seed}"})
    plan = prepare(config)
    study = open_study(config, plan, resume=True)
    executor = SerialExecutor(plan.spec)
    # The optimizers are compared without the baselines' help: they see the start, and what they ask for.
    planned = [trial for trial in plan.planned if trial.merge is None]
    optimizer = build_optimizer(config, plan)
    search(study, optimizer, executor, plan.objective, planned, Budget(trials=max(COSTS)), seed=seed)
    held_out = [held_out_score(study, executor, plan.objective, cost) for cost in COSTS]
    study.close()
    executor.close()
    return held_out


def held_out_score(study: Study, executor: SerialExecutor, objective: Objective, cost: int) -> float:
    """Report-split score of the best of the first `cost` candidates."""
    scored = [e for e in study.told if e.trial.split == "search" and e.trial.label != CANARY][:cost]
    best = min((e for e in scored if e.losses), key=lambda e: (e.losses or (np.inf,))[0]).trial
    label = f"best:{best.number}"
    score_all(study, executor, objective, [best.changed(label=label, split="report")], phase="report")
    return _score(study, objective, label)


def baseline_scores(config: SearchConfig, out: Path) -> dict[str, float]:
    """Report-split scores of base, parents, uniform average and the task-arithmetic grid."""
    config = config.model_copy(update={"study": out / "baselines"})
    plan = prepare(config)
    study = open_study(config, plan, resume=True)
    trials = [trial.changed(split="report") for trial in plan.planned if trial.merge is not None]
    score_all(study, SerialExecutor(plan.spec), plan.objective, trials, phase="report")
    scores = {trial.label: _score(study, plan.objective, trial.label) for trial in trials}
    study.close()
    return scores


def _score(study: Study, objective: Objective, label: str) -> float:
    def is_it(entry: Entry) -> bool:
        trial: Trial = entry.trial
        return trial.label == label and trial.split == "report"

    outcome = next(e for e in study.told if is_it(e)).outcome
    if outcome is None:
        raise ValueError(f"{label} has no score")
    return DisplayScore(objective).score(outcome.scores)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=HERE / "search.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    given = parser.parse_args()
    config = load_config(given.file)
    print(f"{prepare(config).space.dimension} coefficients")
    for label, score in baseline_scores(config, given.out).items():
        print(f"{label:28s} {score:.4f}")
    results: dict[str, list[list[float]]] = {name: [] for name in given.only}
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(run, given.file, given.out, name, seed): (name, seed)
            for seed in range(given.seeds)
            for name in given.only
        }
        for done in as_completed(jobs):
            name, seed = jobs[done]
            results[name].append(done.result())
            print(f"  finished {name}, seed {seed}: {done.result()}", flush=True)
    print("\n| optimizer | " + " | ".join(f"{cost} candidates" for cost in COSTS) + " |")
    print("|---|" + "---|" * len(COSTS))
    for name, rows in results.items():
        table = np.array(rows)
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(table.mean(0), table.std(0, ddof=1), strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
