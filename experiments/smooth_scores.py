"""`python -m experiments.smooth_scores`: how well smooth scores of few examples rank merges by their accuracy on many.

The demo's two tasks of multiple choice; random merges by task arithmetic with one weight per expert.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from evaluators import _strict_yaml as strict_yaml
from evaluators._choices import smooth_value
from evaluators.base import FloatArray
from evaluators.multiple_choice import MultipleChoice
from evomerge.bench import Bench
from evomerge.config import load_config
from evomerge.launch.plan import prepare
from evomerge.trial import Trial

TASKS = ("count", "find")
SCORES = ("accuracy", "probability", "logprob", "bits_per_byte")
SIZES = (20, 50, 100)
REPEATS = 50


def build(models: Path, folder: Path) -> Bench:
    """Return a worker for both tasks, most of whose examples are on the search split."""
    data = {
        "base": str(models / "base"),
        "experts": {name: str(models / name) for name in ("count", "find", "reverse", "sort")},
        "dtype": "float32",
        "space": {"kind": "uniform", "ranges": {"weight": [0, 1]}},
        "tasks": {
            task: {"evaluator": "multiple_choice", "file": str(models / "data" / f"{task}.jsonl")} for task in TASKS
        },
        "optimizer": "random",
        "split": {"search": 0.98, "select": 0.01, "report": 0.01},
        "executor": "serial",
        "study": str(folder / "study"),
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(data))
    return prepare(load_config(file)).spec()


def values_of(bench: Bench, points: FloatArray) -> dict[str, dict[str, FloatArray]]:
    """Return task -> score -> values, larger is better, (n_merges, n_examples)."""
    found: dict[str, dict[str, list[list[float]]]] = {task: {score: [] for score in SCORES} for task in TASKS}
    for number, x in enumerate(points):
        outcome = bench.run(Trial(number, x))
        for task in TASKS:
            evaluator, scores = bench.evaluators[task], outcome.scores[task]
            if not isinstance(evaluator, MultipleChoice) or scores.choices is None:
                raise TypeError(f"{task} is no multiple choice")
            rows = evaluator.rows(scores.example_ids)
            found[task]["accuracy"].append(scores.values.tolist())
            for score in SCORES[1:]:
                sign = -1.0 if score == "bits_per_byte" else 1.0
                values = []
                for row, likely in zip(rows, scores.choices, strict=True):
                    n_bytes = np.array([len(text.encode()) for text in evaluator._choices[row]], dtype=np.float64)
                    value = smooth_value(score, likely, evaluator._lengths[row], [evaluator._gold[row]], n_bytes)
                    values.append(sign * value)
                found[task][score].append(values)
    return {task: {score: np.array(rows) for score, rows in scores.items()} for task, scores in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--merges", type=int, default=40)
    asked = parser.parse_args()
    rng = np.random.Generator(np.random.Philox(key=0))
    points = rng.random((asked.merges, 4))
    points[: asked.merges // 2] *= 0.4
    with tempfile.TemporaryDirectory() as name:
        values = values_of(build(asked.models.absolute(), Path(name)), points)
    for task, scores in values.items():
        truth, total = scores["accuracy"], scores["accuracy"].shape[1]
        for size in SIZES:
            taus: dict[str, list[float]] = {score: [] for score in SCORES}
            for _ in range(REPEATS):
                few = rng.permutation(total)[:size]
                rest = np.setdiff1d(np.arange(total), few)
                wanted = truth[:, rest].mean(1)
                for score in SCORES:
                    taus[score].append(float(kendalltau(scores[score][:, few].mean(1), wanted).statistic))
            shown = ", ".join(f"{score} {np.mean(found):.2f} ± {np.std(found):.2f}" for score, found in taus.items())
            print(f"{task}, {size} of {total} examples: {shown}")
        ratios = {
            score: np.ptp(each.mean(1)) / np.sqrt(np.mean(each.var(1, ddof=1) / total))
            for score, each in scores.items()
        }
        print(f"{task}, signal to noise: {', '.join(f'{score} {ratio:.1f}' for score, ratio in ratios.items())}")


if __name__ == "__main__":
    main()
