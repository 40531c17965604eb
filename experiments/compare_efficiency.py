"""`python -m experiments.compare_efficiency SET`: held-out score against cost, for gradients and black-box search.

Cost is counted in evaluations of the search split beyond the baselines: an example counts with its share, a gradient
three times, checks in full. Every seed divides the examples otherwise. The held-out score at a cost is that of the
candidate or baseline that is best so far by the true metric on the search split. Every run is kept as a file, and not
repeated.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.base import FloatArray
from evomerge.budget import Budget
from evomerge.config import SearchConfig, load_config
from evomerge.execution.serial import SerialExecutor
from evomerge.launch.launch import open_study
from evomerge.launch.plan import Plan, build_optimizer, build_race, prepare
from evomerge.loop import decisions, score_all, search
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore
from evomerge.plugins import PluginSpec
from evomerge.study import Entry, Study
from experiments.misspelled import spaced

HERE = Path(__file__).parent / "04-sample-efficiency"
COSTS = (0, 7, 10, 12.5, 15, 25, 40, 50, 75, 100, 150, 300)


@dataclass(frozen=True)
class Searcher:
    """An optimizer with its options. most: evaluations that it may spend, beyond the baselines."""

    optimizer: PluginSpec
    racing: str | None = None
    most: float = 150


SEARCHERS = {
    "random": Searcher(PluginSpec("random")),
    "cma_es": Searcher(PluginSpec("cma_es")),
    "cma_es (mergekit_evolve)": Searcher(PluginSpec("cma_es", {"preset": "mergekit_evolve"})),
    "cma_es (sakana)": Searcher(PluginSpec("cma_es", {"preset": "sakana"})),
    "tpe": Searcher(PluginSpec("tpe")),
    "gp": Searcher(PluginSpec("gp"), most=50),
    "gradient, 5": Searcher(PluginSpec("gradient", {"evaluations": 5.0})),
    "gradient, 10": Searcher(PluginSpec("gradient", {"evaluations": 10.0})),
    "gradient, 25": Searcher(PluginSpec("gradient", {"evaluations": 25.0})),
    "gradient, 10, half the step": Searcher(PluginSpec("gradient", {"evaluations": 10.0, "peak": 0.025})),
    "gradient, 10, twice the step": Searcher(PluginSpec("gradient", {"evaluations": 10.0, "peak": 0.1})),
    "auto": Searcher(PluginSpec("auto")),
    "cma_es, safe racing": Searcher(PluginSpec("cma_es"), racing="safe"),
    "cma_es, aggressive racing": Searcher(PluginSpec("cma_es"), racing="aggressive"),
    "cma_es to 300": Searcher(PluginSpec("cma_es"), most=300),
    "cma_es to 1000": Searcher(PluginSpec("cma_es"), most=1000),
}
#: Set -> its search file, and its space.
SETS = {
    "demo": ("demo", "blockwise"),
    "demo-tensorwise": ("demo", "tensorwise"),
    "demo-two-spellings": ("demo", "blockwise"),
    "demo-misspelled": ("demo", "blockwise"),
    "digits": ("digits", "blockwise"),
    "digits-tensorwise": ("digits", "tensorwise"),
    "digits-ties": ("digits-ties", "blockwise"),
}


def configuration(name: str, searcher: Searcher, seed: int, out: Path) -> SearchConfig:
    """Return the search of a set by a searcher, on the division of the examples that belongs to the seed."""
    file, space = SETS[name]
    config = load_config(HERE / f"{file}.yaml")
    return config.model_copy(
        update={
            "optimizer": searcher.optimizer,
            "racing": searcher.racing,
            "seed": seed,
            "space": replace(config.space, kind=space),
            "split": config.split.model_copy(update={"salt": str(seed)}),
            "tasks": _tasks(name, config, out),
        }
    )


def _tasks(name: str, config: SearchConfig, out: Path) -> Mapping[str, PluginSpec]:
    """Return the tasks of a set; those that generate get other references where the set is a hostile one."""
    written = {task: spec for task, spec in config.tasks.items() if spec.kind == "exact_match"}
    if name == "demo-misspelled":
        return {**config.tasks, **{t: replace(s, kind="experiments.misspelled:Misspelled") for t, s in written.items()}}
    if name != "demo-two-spellings":
        return config.tasks
    changed = {}
    for task, spec in written.items():
        lines = map(json.loads, Path(spec.options["file"]).read_text().splitlines())
        both = [{**line, "answer": [spaced(line["answer"]), line["answer"]]} for line in lines]
        file = (out / f"{task}.jsonl").absolute()
        file.write_text("".join(f"{json.dumps(line)}\n" for line in both))
        changed[task] = replace(spec, options={**spec.options, "file": str(file)})
    return {**config.tasks, **changed}


def run(name: str, label: str, seed: int, out: Path, most: float) -> dict[str, Any]:
    """Return the result of one search: held-out and search scores by cost. most: evaluations beyond the baselines."""
    folder = out / name / f"{slug(label)}-{seed}"
    kept = folder.with_suffix(".json")
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"most": 0}
    if found["most"] >= most:
        return found
    kept.parent.mkdir(parents=True, exist_ok=True)
    searcher = SEARCHERS[label]
    config = configuration(name, searcher, seed, out / name).model_copy(update={"study": folder})
    plan = prepare(config)
    study = open_study(config, plan, resume=True)
    executor = SerialExecutor(plan.spec)
    planned = sum(trial.counts for trial in plan.planned)
    search(
        study,
        build_optimizer(config, plan),
        executor,
        plan.objective,
        plan.planned,
        Budget(trials=planned + int(most)),
        seed=seed,
        same=plan.same,
        examples=plan.search_examples,
        race=build_race(config, plan),
    )
    result = {"most": most, **measured(study, plan, executor)}
    kept.write_text(json.dumps(result))
    study.close()
    executor.close()
    return result


def measured(study: Study, plan: Plan, executor: SerialExecutor) -> dict[str, Any]:
    """Score on the report split what was best on the search split at each cost, for costs that were spent."""
    planned = {trial.label for trial in plan.planned}
    spent, scored = 0.0, []
    for entry in sorted((*study.entries.values(), *study.parts.values()), key=lambda each: each.trial.number):
        if not entry.trial.counts:
            continue
        spent += 0.0 if entry.trial.label in planned else entry.trial.cost
        if entry.losses:
            scored.append((spent, entry))
    costs = [cost for cost in COSTS if cost <= spent + 1e-9]
    held_out, on_search = {}, {}
    for cost in [*costs, spent]:
        best = min((e for at, e in scored if at <= cost + 1e-9), key=lambda e: (e.losses or (np.inf,))[0])
        held_out[f"{cost:g}"] = _reported(study, executor, plan.objective, best)
        on_search[f"{cost:g}"] = -float((best.losses or (np.nan,))[0])
    return {"spent": spent, "held_out": held_out, "on_search": on_search, "decisions": decisions(study)}


def _reported(study: Study, executor: SerialExecutor, objective: Objective, best: Entry) -> float:
    label = f"best:{best.trial.number}"
    trial = replace(best.trial, label=label, split="report", examples=None, extends=None, cost=1.0)
    score_all(study, executor, objective, [trial], phase="report")
    outcome = next(e for e in study.told if e.trial.label == label and e.trial.split == "report").outcome
    if outcome is None:
        raise ValueError(f"{label} has no score")
    return DisplayScore(objective).score(outcome.scores)


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return held-out scores by searcher and cost: mean and standard error over the seeds; once it ends, the last."""
    lines = ["| searcher | seeds | spent | " + " | ".join(f"{cost:g}" for cost in COSTS) + " |"]
    lines.append("|---|" + "---|" * (len(COSTS) + 2))
    for label, runs in results.items():
        curves = np.array([curve(one) for one in runs])  # (n_seeds, n_costs)
        spent = np.mean([one["spent"] for one in runs])
        cells = [_cell(column) for column in curves.T]
        lines.append(f"| {label} | {len(runs)} | {spent:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curve(result: Mapping[str, Any]) -> FloatArray:
    """Return the held-out score at each of COSTS, (n_costs,); NaN beyond the searcher's budget."""
    held_out, last = result["held_out"], f"{result['spent']:g}"
    return np.array([held_out.get(f"{c:g}", held_out[last]) if c <= result["most"] else np.nan for c in COSTS])


def _cell(scores: FloatArray) -> str:
    if np.isnan(scores).any():
        return "-"
    error = scores.std(ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.nan
    return f"{scores.mean():.4f}" if np.isnan(error) else f"{scores.mean():.4f} ± {error:.4f}"


def slug(label: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in label).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--out", type=Path, default=Path("runs/efficiency"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(SEARCHERS), default=list(SEARCHERS))
    parser.add_argument("--most", type=float, default=np.inf, help="evaluations of a search beyond the baselines")
    given = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {label: [] for label in given.only}
    for seed in range(given.seeds):
        for label in given.only:
            results[label].append(run(given.set, label, seed, given.out, min(given.most, SEARCHERS[label].most)))
            print(f"  {given.set}, {label}, seed {seed}: {results[label][-1]}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
