"""`python -m experiments.label_free`: how well scores without labels rank merges of the demo's models.

Random merges by task arithmetic are scored with labels and without, and each score without labels is compared with the
mean accuracy by rank correlation. The criterion of AdaMMS, which needs neighbors on a grid, is computed beside them.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from evaluators import _strict_yaml as strict_yaml
from evaluators._generation import Generator
from evaluators.base import FloatArray
from evomerge.bench import Bench
from evomerge.config import load_config
from evomerge.launch.plan import prepare
from evomerge.trial import Trial

#: The demo's tasks, each with an expert of its name -> the longest answer in tokens.
TASKS = {"count": 2, "find": 2, "reverse": 8, "sort": 10}
CHOICES = ("count", "find")
STEPS = 11


def unlabeled(models: Path, folder: Path) -> dict[str, Path]:
    """Write each task's prompts and choices without its answers."""
    found = {}
    for task in TASKS:
        rows = [json.loads(line) for line in (models / "data" / f"{task}.jsonl").read_text().splitlines()]
        kept = [{key: value for key, value in row.items() if key != "answer"} for row in rows]
        found[task] = folder / f"{task}.jsonl"
        found[task].write_text("".join(json.dumps(row) + "\n" for row in kept))
    (folder / "all.jsonl").write_text("".join(path.read_text() for path in found.values()))
    return found


def families(models: Path, files: Mapping[str, Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the search's tasks in groups, of which each is one score: the labeled ones, and those without labels."""
    labeled = {
        task: {
            "evaluator": "multiple_choice" if task in CHOICES else "exact_match",
            "file": str(models / "data" / f"{task}.jsonl"),
        }
        for task in TASKS
    }

    def each(
        evaluator: str, tasks: Sequence[str] = tuple(TASKS), *, answers: bool = False, **own: Any
    ) -> dict[str, Any]:
        return {
            task: {
                "evaluator": evaluator,
                "file": str(files[task]),
                **({"max_new_tokens": TASKS[task]} if answers else {}),
                **({} if evaluator == "entropy" else {"expert": task}),
                **own,
            }
            for task in tasks
        }

    return {
        "labels": labeled,
        "kl_to_expert, texts": each("kl_to_expert"),
        "kl_to_expert, answers": each("kl_to_expert", answers=True),
        "kl_to_expert, answers, temperature 2": each("kl_to_expert", answers=True, temperature=2.0),
        "agreement": each("agreement", answers=True),
        "entropy, texts": each("entropy"),
        "entropy, answers": each("entropy", answers=True),
        "entropy, choices": each("entropy", CHOICES, choices="choices"),
        "effective_rank": {"all": {"evaluator": "effective_rank", "file": str(files["sort"].parent / "all.jsonl")}},
    }


def build(models: Path, groups: Mapping[str, Mapping[str, Any]], folder: Path, limit: int) -> Bench:
    """Return a worker for all tasks, most of whose examples are on the search split."""
    tasks = {
        f"{group}:{task}": options if options["evaluator"] == "effective_rank" else {**options, "limit": limit}
        for group, members in groups.items()
        for task, options in members.items()
    }
    data = {
        "base": str(models / "base"),
        "experts": {task: str(models / task) for task in TASKS},
        "dtype": "float32",
        "space": {"kind": "uniform", "ranges": {"weight": [0, 1]}},
        "tasks": tasks,
        "optimizer": "random",
        "split": {"search": 0.9, "select": 0.05, "report": 0.05},
        "executor": "serial",
        "study": str(folder / "study"),
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(data))
    return prepare(load_config(file)).spec()


def measured(
    bench: Bench, groups: Mapping[str, Mapping[str, Any]], points: FloatArray
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the scores of merges, larger is better: group -> task means (n_points, n_tasks), and the seconds."""
    scores: dict[str, list[list[float]]] = {group: [] for group in groups}
    seconds: dict[str, list[float]] = {group: [] for group in groups}
    for number, x in enumerate(points):
        outcome = bench.run(Trial(number, x))
        if outcome.failure is not None:
            raise RuntimeError(outcome.failure.message)
        for group, members in groups.items():
            names = [f"{group}:{task}" for task in members]
            signs = [1.0 if bench.evaluators[name].higher_is_better else -1.0 for name in names]
            scores[group].append([sign * outcome.scores[name].mean for sign, name in zip(signs, names, strict=True)])
            seconds[group].append(sum(outcome.seconds[f"evaluate:{name}"] for name in names))
        print(f"{number + 1} of {len(points)}: accuracy {np.mean(scores['labels'][-1]):.3f}", flush=True)
    return (
        {group: np.array(rows) for group, rows in scores.items()},
        {group: np.array(rows) for group, rows in seconds.items()},
    )


def neighbors(bench: Bench, files: Mapping[str, Path], limit: int) -> None:
    """Print AdaMMS's criterion on a grid of one weight for all experts, beside the accuracy."""
    writers = {}
    for task, path in files.items():
        prompts = [next(iter(json.loads(line).values())) for line in path.read_text().splitlines()[:limit]]
        writers[task] = Generator(bench.model, prompts, TASKS[task], ("\n",))
    texts, accuracies = [], []
    for weight in np.linspace(0, 1, STEPS):
        outcome = bench.run(Trial(0, np.full(len(TASKS), weight)))
        accuracies.append(np.mean([outcome.scores[f"labels:{task}"].mean for task in TASKS]))
        written = [
            found.text.strip() for writer in writers.values() for found in writer.run(bench.model.network, range(limit))
        ]
        texts.append(np.array(written))
    changed = [float((a != b).mean()) for a, b in pairwise(texts)]
    inner = [changed[i - 1] + changed[i] for i in range(1, STEPS - 1)]
    print("\nAdaMMS on a grid: weight, accuracy, changed answers (sum to both neighbors)")
    for i in range(STEPS):
        said = f"{inner[i - 1]:.3f}" if 0 < i < STEPS - 1 else "-"
        print(f"{i / (STEPS - 1):.1f}  {accuracies[i]:.3f}  {said}")
    tau = kendalltau([-value for value in inner], accuracies[1:-1]).statistic
    chosen = 1 + int(np.argmin(inner))
    print(f"tau over the inner points {tau:+.2f}; chosen {chosen / (STEPS - 1):.1f} with {accuracies[chosen]:.3f}")


def correlations(scores: Mapping[str, FloatArray], chosen: np.ndarray[Any, Any]) -> None:
    """Print the rank correlations of each group's mean with the mean accuracy, and the accuracy of its best merge."""
    truth = scores["labels"].mean(1)[chosen]
    for group, values in scores.items():
        mean = values.mean(1)[chosen]
        own = ""
        if values.shape == scores["labels"].shape and group != "labels":
            taus = [
                kendalltau(values[chosen, task], scores["labels"][chosen, task]).statistic
                for task in range(values.shape[1])
            ]
            own = " ".join(f"{tau:+.2f}" for tau in taus)
        print(
            f"{group:38} tau {kendalltau(mean, truth).statistic:+.2f} rho {spearmanr(mean, truth).statistic:+.2f} "
            f"best {truth[mean.argmax()]:.3f} of {truth.max():.3f}  per task {own}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--merges", type=int, default=40)
    parser.add_argument("--limit", type=int, default=150, help="examples per task")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    models = asked.models.absolute()
    with tempfile.TemporaryDirectory() as name:
        files = unlabeled(models, Path(name))
        groups = families(models, files)
        bench = build(models, groups, Path(name), asked.limit)
        rng = np.random.Generator(np.random.Philox(key=asked.seed))
        points = rng.random((asked.merges, len(TASKS)))
        # Half of them sum to at most 1.5, where good merges are: the others show what a score says of bad ones.
        half = asked.merges // 2
        points[:half] *= (rng.uniform(0.5, 1.5, half) / points[:half].sum(1))[:, None].clip(max=1.0)
        scores, seconds = measured(bench, groups, points)
        for what, chosen in (("all merges", np.ones(len(points), bool)), ("the better half", better(scores["labels"]))):
            print(f"\n{what}: {chosen.sum()}")
            correlations(scores, chosen)
        print("\nseconds per merge:", {group: round(float(np.median(rows)), 2) for group, rows in seconds.items()})
        neighbors(bench, files, asked.limit)


def better(labels: FloatArray) -> np.ndarray[Any, Any]:
    """Return which merges have at least the median accuracy."""
    mean = labels.mean(1)
    return np.asarray(mean >= np.median(mean))


if __name__ == "__main__":
    main()
