"""`python -m experiments.compare_efficiency SET`: held-out score against cost, for gradients and black-box search.

Cost is counted in evaluations of the search split beyond the baselines: an example counts with its share, a gradient
three times, checks in full. Every seed divides the examples otherwise. The held-out score at a cost is that of the
candidate or baseline that is best so far by the true metric on the search split. Every run is kept as a file, and not
repeated; the baselines of models and a seed are scored once, by the first searcher.
"""

import argparse
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.base import Evaluator, FloatArray
from evomerge import plugins
from evomerge.budget import Budget, evaluations
from evomerge.config import SearchConfig, load_config
from evomerge.execution.serial import SerialExecutor
from evomerge.launch.launch import open_study
from evomerge.launch.plan import Plan, build_optimizer, build_race, prepare
from evomerge.loop import Progress, decisions, score_all, search
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore
from evomerge.plugins import PluginSpec
from evomerge.study import Entry, Study
from evomerge.trial import Outcome, Trial
from experiments.misspelled import spaced

HERE = Path(__file__).parent / "04-sample-efficiency"
COSTS = (0, 7, 10, 12.5, 15, 25, 40, 50, 75, 100, 150, 300)


@dataclass(frozen=True)
class Searcher:
    """An optimizer with its options. most: evaluations that it may spend, beyond the baselines.

    smooth: whether it searches by the tasks' losses instead of their metrics. methods: the merge method, or several to
    choose from; none for the search file's.
    """

    optimizer: PluginSpec
    racing: str | None = None
    most: float = 150
    smooth: bool = False
    methods: tuple[str, ...] = ()


#: Methods for a search that chooses one, and for searches by each of them alone.
METHODS = ("task_arithmetic", "ties", "dare_ties", "breadcrumbs")


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
    "random, safe racing": Searcher(PluginSpec("random"), racing="safe"),
    "random, aggressive racing": Searcher(PluginSpec("random"), racing="aggressive"),
    "cma_es, smooth loss": Searcher(PluginSpec("cma_es"), smooth=True),
    "cma_es to 300": Searcher(PluginSpec("cma_es"), most=300),
    "cma_es to 1000": Searcher(PluginSpec("cma_es"), most=1000),
    **{
        f"{optimizer}, {'one of four methods' if len(methods) > 1 else methods[0]}": Searcher(
            PluginSpec(optimizer), methods=methods
        )
        for optimizer in ("cma_es", "auto")
        for methods in [METHODS, *((method,) for method in METHODS)]
    },
}


@dataclass(frozen=True)
class Setting:
    """A set. file: its search file. space: the groups of coefficients. search: another share of examples to search."""

    file: str
    space: str = "blockwise"
    search: float | None = None


SETS = {
    "demo": Setting("demo"),
    "demo-tensorwise": Setting("demo", "tensorwise"),
    "demo-half": Setting("demo", search=0.15),
    "demo-two-spellings": Setting("demo"),
    "demo-misspelled": Setting("demo"),
    "six": Setting("six"),
    "six-tensorwise": Setting("six", "tensorwise"),
    "digits": Setting("digits"),
    "digits-tensorwise": Setting("digits", "tensorwise"),
    "digits-ties": Setting("digits-ties"),
    "real": Setting("real"),
    "real-tensorwise": Setting("real", "tensorwise"),
}
#: Parts of a search file on which baselines do not depend.
SEARCHED_WITH = ("optimizer", "racing", "space", "method")


def configuration(name: str, searcher: Searcher, seed: int, out: Path) -> SearchConfig:
    """Return the search of a set by a searcher, on the division of the examples that belongs to the seed."""
    setting = SETS[name]
    config = load_config(HERE / f"{setting.file}.yaml")
    split = config.split.model_copy(update={"salt": str(seed)})
    if setting.search is not None:
        unused = config.split.search - setting.search
        split = split.model_copy(update={"search": setting.search, "select": config.split.select + unused})
    specs = tuple(map(PluginSpec, searcher.methods))
    return config.model_copy(
        update={
            **({"method": specs if len(specs) > 1 else specs[0]} if specs else {}),
            "optimizer": searcher.optimizer,
            "racing": searcher.racing,
            "seed": seed,
            "space": replace(config.space, kind=setting.space),
            "split": split,
            "tasks": {
                task: _smooth(spec) if searcher.smooth else spec for task, spec in _tasks(name, config, out).items()
            },
        }
    )


def _smooth(spec: PluginSpec) -> PluginSpec:
    kind: type[Evaluator] = plugins.load("evaluator", spec.kind, Evaluator)
    name = "Smooth" if kind.needs_language_model else "SmoothOfImages"
    return PluginSpec(f"experiments.smooth:{name}", {"evaluator": spec.kind, "options": spec.options})


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
    """Return the result of one search: scores of its best models by cost. most: evaluations beyond the baselines."""
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
    executor = Remembering(SerialExecutor(plan.spec), known(config, plan, out, seed))
    planned = sum(trial.counts for trial in plan.planned)
    said = Said(f"{name}, {label}, seed {seed}", planned, most)
    search(
        study,
        build_optimizer(config, plan),
        executor,
        plan.objective,
        plan.planned,
        Budget(trials=planned + int(most)),
        seed=seed,
        same=plan.same,
        progress=said,
        examples=plan.search_examples,
        race=build_race(config, plan),
    )
    steps = best_so_far(study, {trial.label for trial in plan.planned})
    result = {"most": most, "spent": spent(study, plan), "decisions": decisions(study)}
    study.close()
    executor.close()
    if searcher.smooth:  # the report is on the metrics
        config = configuration(name, replace(searcher, smooth=False), seed, out / name)
        config = config.model_copy(update={"study": Path(f"{folder}-report")})
        plan = prepare(config)
    study = open_study(config, plan, resume=True)
    executor = Remembering(SerialExecutor(plan.spec), known(config, plan, out, seed))
    result["steps"] = [(at, -loss, _reported(study, executor, plan.objective, trial)) for at, loss, trial in steps]
    kept.write_text(json.dumps(result))
    study.close()
    executor.close()
    return result


class Remembering:
    """A serial executor that does not score baselines again that another searcher has scored.

    Args:
        executor: Runs all other trials.
        outcomes: Label and split of a trial -> its outcome.
    """

    slots = 1

    def __init__(self, executor: SerialExecutor, outcomes: Mapping[tuple[str, str], Outcome]) -> None:
        self._executor, self._outcomes = executor, outcomes
        self._remembered: Outcome | None = None

    def submit(self, trial: Trial) -> None:
        """Keep the trial for `next_outcome`."""
        outcome = None if trial.is_part else self._outcomes.get((trial.label, trial.split))
        if outcome is None:
            self._executor.submit(trial)
        else:
            self._remembered = outcome.changed(number=trial.number)

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        """Run the submitted trial, or return its recorded outcome."""
        outcome, self._remembered = self._remembered, None
        return self._executor.next_outcome(timeout) if outcome is None else outcome

    def close(self) -> None:
        """Discard the submitted trial."""
        self._executor.close()


def known(config: SearchConfig, plan: Plan, out: Path, seed: int) -> dict[tuple[str, str], Outcome]:
    """Return the outcomes of baselines, on the search and the report split, from finished runs of other searchers."""
    wanted = _shared(config.identity())
    labels = {trial.label for trial in plan.planned if trial.merge is not None}
    labels |= {_label(label) for label in labels}
    found: dict[tuple[str, str], Outcome] = {}
    for kept in sorted(out.glob(f"*/*-{seed}.json")):
        study = Study.read(kept.with_suffix(""))
        if _shared(study.configuration) == wanted:
            ended = [e for e in study.told if e.trial.label in labels and e.outcome and not e.outcome.failure]
            found |= {(e.trial.label, e.trial.split): e.outcome for e in ended if e.outcome}
    return found


def _shared(configuration: Mapping[str, Any]) -> Any:
    kept = {key: value for key, value in configuration.items() if key not in SEARCHED_WITH}
    return json.loads(json.dumps(kept))


class Said:
    """Prints about once a minute how far a search is."""

    def __init__(self, name: str, planned: int, most: float) -> None:
        self._name, self._planned, self._most = name, planned, most
        self._said = self._start = time.monotonic()
        self._before: float | None = None

    def __call__(self, state: Progress) -> None:
        """Print the cost so far, and the minutes left if the whole budget is spent."""
        now, cost = time.monotonic(), evaluations(state.study) - self._planned
        self._before = cost if self._before is None else self._before
        if now - self._said < 60:
            return
        self._said, done = now, cost - self._before
        left = f", {(now - self._start) / done * (self._most - cost) / 60:.0f} min left at most" if done > 0 else ""
        print(f"  {self._name}: {max(0.0, cost):.1f} of {self._most:g}{left}", flush=True)


def best_so_far(study: Study, baselines: Collection[str]) -> list[tuple[float, float, Trial]]:
    """Return every model that was the best so far on the search split: cost, loss there, and its trial of the report.

    baselines: labels of the trials that cost nothing; only the best of them is returned.
    """
    cost, best = 0.0, np.inf
    steps: list[tuple[float, float, Trial]] = []
    for entry in _in_order(study):
        is_baseline = entry.trial.label in baselines
        cost += 0.0 if is_baseline else entry.trial.cost
        if entry.losses and entry.losses[0] < best:
            best = entry.losses[0]
            label = _label(entry.trial.label if is_baseline else entry.trial.number)
            steps.append((cost, best, entry.trial.changed(label=label, split="report", extends=None, cost=1.0)))
    return steps[max(k for k, (at, _, _) in enumerate(steps) if not at) :]


def spent(study: Study, plan: Plan) -> float:
    """Return the cost of a search beyond its baselines, in evaluations."""
    baselines = {trial.label for trial in plan.planned}
    return sum(entry.trial.cost for entry in _in_order(study) if entry.trial.label not in baselines)


def _in_order(study: Study) -> list[Entry]:
    found = sorted((*study.entries.values(), *study.parts.values()), key=lambda each: each.trial.number)
    return [entry for entry in found if entry.trial.counts]


def _label(of: object) -> str:
    return f"best:{of}"


def _reported(study: Study, executor: Remembering, objective: Objective, trial: Trial) -> float:
    score_all(study, executor, objective, [trial], phase="report")
    told = next(e for e in study.told if e.trial.label == trial.label and e.trial.split == "report")
    if told.outcome is None or told.outcome.failure is not None:
        raise ValueError(f"{trial.label} has no score")
    return DisplayScore(objective).score(told.outcome.scores)


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
    return np.array([held_out(result, cost) if cost <= result["most"] else np.nan for cost in COSTS])


def held_out(result: Mapping[str, Any], cost: float) -> float:
    """Return the held-out score of the best model at a cost."""
    return float([score for at, _, score in result["steps"] if at <= cost + 1e-9][-1])


def cost_to_reach(result: Mapping[str, Any], score: float) -> float:
    """Return the cost after which the best model's held-out score stays at a level or above; infinite if never."""
    below = [k for k, (_, _, reached) in enumerate(result["steps"]) if reached < score]
    after = below[-1] + 1 if below else 0
    return float(result["steps"][after][0]) if after < len(result["steps"]) else np.inf


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
    parser.add_argument("--reach", choices=list(SEARCHERS), help="also print costs to reach the last score of this one")
    given = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {label: [] for label in given.only}
    for seed in range(given.seeds):
        for label in given.only:
            results[label].append(run(given.set, label, seed, given.out, min(given.most, SEARCHERS[label].most)))
            print(f"  {given.set}, {label}, seed {seed}: {results[label][-1]}", flush=True)
    print(table(results))
    if given.reach:
        levels = [one["steps"][-1][2] for one in results[given.reach]]
        print(f"Cost to reach the last held-out score of {given.reach}, by seed ({levels}):")
        for label, runs in results.items():
            print(f"  {label}: {[cost_to_reach(one, level) for one, level in zip(runs, levels, strict=True)]}")


if __name__ == "__main__":
    main()
