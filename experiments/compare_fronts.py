"""`python -m experiments.compare_fronts`: every multi-objective searcher, how much of the front it finds at which cost.

The landscapes are in `front_landscapes`. Each study has one slot of its own process, so that it is exactly repeatable;
studies that are there are taken up. All searchers see the start (equal weights) and their own proposals, no baselines.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.base import FloatArray
from evomerge import plugins
from evomerge.budget import Budget
from evomerge.config import SearchConfig
from evomerge.execution.serial import SerialExecutor
from evomerge.feedback import Feedback
from evomerge.launch.launch import open_study
from evomerge.launch.plan import Plan, build_optimizer, prepare
from evomerge.loop import score_all, search
from evomerge.optimizers.base import Optimizer
from evomerge.plugins import PluginSpec
from evomerge.statistics.pareto import hypervolume, igd_plus, non_dominated
from evomerge.study import Entry, Study
from evomerge.trial import Trial
from experiments.front_landscapes import (
    LANDSCAPES,
    LEVELS,
    Landscape,
    configuration,
    measured_front,
    true_front,
    truth,
)

SEARCHERS = {
    "random": PluginSpec("random"),
    "sobol": PluginSpec("sobol"),
    "nsga2": PluginSpec("nsga2"),
    "nsga3": PluginSpec("nsga3"),
    "tpe": PluginSpec("tpe"),
    "motpe": PluginSpec("motpe"),
    "gp": PluginSpec("gp"),
    "niches": PluginSpec("niches"),
    "quality_diversity": PluginSpec("quality_diversity"),
    "map": PluginSpec("map"),
    "map_released": PluginSpec("map_released"),
    "map_bayesian": PluginSpec("map_bayesian"),
    "map_nested": PluginSpec("map_nested"),
    "gradient_front": PluginSpec("gradient_front"),
    "auto": PluginSpec("auto"),
}
#: So many points of a predicted front are scored, to see how far off it is; more after the first cost, where the front
#: is known well enough to say what share of it they cover.
N_SCORED, N_COVERING = 40, 250
#: Searchers that get fewer evaluations where there are more to be had: they take seconds to ask.
MOST = {"gp": 40}


def run(land: Landscape, name: str, seed: int, out: Path) -> None:
    """One study, from its first trial or from where it stopped; what it measured and forecast goes into a file."""
    result = out / f"{land.name}-{name}-{seed}.json"
    if result.exists():
        return
    config = configuration(land, SEARCHERS[name], seed, out, name)
    plan = prepare(config)
    most = MOST.get(name, land.costs[-1]) if land.deep else land.costs[-1]
    with closing(open_study(config, plan, resume=True)) as study, closing(SerialExecutor(plan.spec)) as executor:
        planned = [trial for trial in plan.planned if trial.merge is None]
        optimizer = build_optimizer(config, plan)
        budget, examples = Budget(trials=most), plan.search_examples
        ending = search(study, optimizer, executor, plan.objective, planned, budget, seed=seed, examples=examples)
        if ending.kind != "done":
            raise RuntimeError(f"{land.name} {name} {seed}: {ending.message}")
        measured = [e for e in study.told if e.losses is not None and e.trial.label in ("start", "search")]
        ends = sorted({min(land.costs[0], len(measured)), len(measured)})
        aside = config.model_copy(update={"study": Path(f"{config.study}-forecasts")})  # no trials of the search
        with closing(open_study(aside, plan, resume=True)) as checked:
            known = land.synthetic or land.on_grid
            looks = zip(ends, (N_COVERING if known else N_SCORED, N_SCORED), strict=False)
            forecasts = (
                [forecast(config, plan, checked, executor, measured[:n], most) for n, most in looks]
                if optimizer.why_no_predictions() is not None
                else []
            )
        costs = np.cumsum([e.trial.cost * e.trial.counts for e in study.ended])
        spent = dict(zip((e.trial.number for e in study.ended), costs, strict=True))
    data = {
        "points": [e.trial.x.tolist() for e in measured if e.trial.x is not None],
        "losses": [e.losses for e in measured],
        "costs": [float(spent[e.trial.number]) for e in measured],
        "forecasts": [one for one in forecasts if one["points"]],
    }
    result.write_text(json.dumps(data))


def forecast(
    config: SearchConfig,
    plan: Plan,
    study: Study,
    executor: SerialExecutor,
    measured: Sequence[Entry],
    most: int,
) -> dict[str, Any]:
    """The front that a searcher predicts after these trials, and what its points score for real, in `study`.

    most: so many points at most, spread over all of them.
    """
    optimizer = build_optimizer(config, plan)
    feedback = Feedback(optimizer, plan.objective, set())
    for entry in measured:
        feedback.take(entry)
    inside = [p for p in optimizer.predictions() if p.x.min() >= 0.0 and p.x.max() <= 1.0]
    if len(inside) > most:
        inside = [inside[n] for n in np.linspace(0, len(inside) - 1, most).round().astype(int)]
    trials = [Trial(-1, p.x, label=f"predicted:{len(measured)}:{n}") for n, p in enumerate(inside)]
    score_all(study, executor, plan.objective, trials, phase="predicted")
    scored = {e.trial.label: e.losses for e in study.told}
    return {
        "after": len(measured),
        "points": [p.x.tolist() for p in inside],
        "predicted": [p.losses.tolist() for p in inside],
        "actual": [scored[trial.label] for trial in trials],
    }


@dataclass(frozen=True)
class Verdict:
    """Per cost, in evaluations of the search split, the share of the front's hypervolume and the IGD+ measured by then.

    promised: the same share after the first cost with the front predicted then, its points scored for real, taken in.
    gap: mean absolute difference of predicted and real losses, in points, the largest of the tasks, after the first
    cost and at the end. NaN for searchers that predict nothing.
    """

    used: float
    hypervolume: FloatArray
    igd_plus: FloatArray
    promised: float
    gap: tuple[float, float]


def judge(land: Landscape, name: str, seed: int, out: Path) -> Verdict:
    """What one study found, against the known front (synthetic: without noise) or the measured one."""
    data = json.loads((out / f"{land.name}-{name}-{seed}.json").read_text())
    config = configuration(land, SEARCHERS[name], seed, out, name)
    points, losses, costs = (np.array(data[key]) for key in ("points", "losses", "costs"))
    front = true_front(land, config) if land.synthetic else measured_front(land, seed, out)
    best, worst = front.min(axis=0), front.max(axis=0)
    reference = worst + 0.1 * (worst - best)
    whole = hypervolume(front, reference)
    reached = []
    for cost in land.costs:
        n = int(np.sum(costs <= cost + 1e-6))
        chosen = non_dominated(losses[:n])
        reached.append(truth(config, points[:n][chosen]) if land.synthetic else losses[:n][chosen])
    promised, gaps = np.nan, [np.nan]
    if data["forecasts"]:
        actual = [
            truth(config, np.array(one["points"])) if land.synthetic else np.array(one["actual"])
            for one in data["forecasts"]
        ]
        promised = hypervolume(np.concatenate([reached[0], actual[0]]), reference) / whole
        gaps = [
            float(100 * np.abs(np.array(one["predicted"]) - real).mean(axis=0).max())
            for one, real in zip(data["forecasts"], actual, strict=True)
        ]
    shares = np.array([hypervolume(one, reference) / whole for one in reached])
    return Verdict(
        float(costs[-1]), shares, np.array([igd_plus(one, front) for one in reached]), promised, (gaps[0], gaps[-1])
    )


def score_grid(land: Landscape, out: Path) -> None:
    """Score every point of the grid, in a study of its own; resumable."""
    if (out / f"{land.name}-grid.json").exists():
        return
    axis = np.linspace(0.0, 1.0, LEVELS[land.n_experts])
    config = configuration(land, PluginSpec("random"), 0, out, "grid")
    plan = prepare(config)
    with closing(open_study(config, plan, resume=True)) as study, closing(SerialExecutor(plan.spec)) as executor:
        points = list(product(axis, repeat=land.n_experts))
        trials = [Trial(-1, np.array(point), label=f"grid:{n}") for n, point in enumerate(points)]
        score_all(study, executor, plan.objective, trials, phase="grid")
        losses = {e.trial.label: e.losses for e in study.told}
    data = {"points": points, "losses": [losses[trial.label] for trial in trials]}
    (out / f"{land.name}-grid.json").write_text(json.dumps(data))


def table(land: Landscape, names: Sequence[str], seeds: int, out: Path) -> str:
    """Rows of searchers: means over the seeds, with standard deviations of the hypervolume."""
    first = land.costs[0]
    columns = [*(f"HV at {cost}" for cost in land.costs), f"with predicted at {first}"]
    columns += [*(f"IGD+ at {cost}" for cost in land.costs), f"gap at {first}", "gap at the end"]
    lines = [f"| {land.name} | used | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name in names:
        verdicts = [judge(land, name, seed, out) for seed in range(seeds)]
        shares = np.array([verdict.hypervolume for verdict in verdicts])
        spread = shares.std(axis=0, ddof=1) if seeds > 1 else np.zeros(shares.shape[1])
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(shares.mean(axis=0), spread, strict=True)]
        cells.append(_mean([verdict.promised for verdict in verdicts], 3))
        cells += [f"{value:.4f}" for value in np.array([verdict.igd_plus for verdict in verdicts]).mean(axis=0)]
        cells += [_mean([verdict.gap[n] for verdict in verdicts], 2) for n in (0, 1)]
        lines.append(f"| {name} | {np.mean([v.used for v in verdicts]):.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def searchers_for(land: Landscape, names: Sequence[str]) -> list[str]:
    """The searchers that take so many objectives, and have gradients if they follow them."""
    kinds = {name: plugins.load("optimizer", SEARCHERS[name].kind, Optimizer) for name in names}
    return [
        name
        for name, kind in kinds.items()
        if land.n_objectives <= (kind.max_objectives or land.n_objectives)
        and not (land.synthetic and kind.follows_gradients)
    ]


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f}" if np.isfinite(values).all() else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pareto"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--landscapes", nargs="*", choices=list(LANDSCAPES), default=list(LANDSCAPES))
    parser.add_argument("--only", nargs="*", choices=list(SEARCHERS), default=list(SEARCHERS))
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    lands = [LANDSCAPES[name] for name in given.landscapes]
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(score_grid, land, out): f"{land.name} grid" for land in lands if land.on_grid}
        jobs |= {
            pool.submit(run, land, name, seed, out): f"{land.name} {name} {seed}"
            for land in lands
            for seed in range(given.seeds)
            for name in searchers_for(land, given.only)
        }
        for number, done in enumerate(as_completed(jobs), 1):
            done.result()
            print(f"  {number} of {len(jobs)}: {jobs[done]}", flush=True)
    for land in lands:
        print(f"\n{table(land, searchers_for(land, given.only), given.seeds, out)}")


if __name__ == "__main__":
    main()
