"""Searches scored without labels, by entropy and by divergence from the experts, on trained models."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import Bench
from evomerge.config import ConfigError, load_config
from evomerge.launch.plan import prepare
from evomerge.run import Run
from evomerge.trial import Trial
from tests.conftest import TinyModels
from tests.evaluators.tiny_llama import write_lines
from tests.evomerge.searches import run_here

NAMES = ("count", "sort")


@pytest.fixture(scope="module")
def prompts(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task -> its prompts alone."""
    folder = tmp_path_factory.mktemp("prompts")
    found = {}
    for name in NAMES:
        rows = [json.loads(line) for line in tiny.tasks[name].read_text().splitlines()[:60]]
        texts = [row.get("prompt", row.get("question")) for row in rows]
        found[name] = write_lines(folder / f"{name}.jsonl", [{"prompt": text} for text in texts])
    return found


def write_search(folder: Path, tiny: TinyModels, tasks: dict[str, object], **changes: object) -> Path:
    settings: dict[str, object] = {
        "base": str(tiny.base),
        "experts": {name: str(tiny.experts[name]) for name in NAMES},
        "dtype": "float32",
        "space": {"kind": "uniform", "ranges": {"weight": [0, 1]}},
        "tasks": tasks,
        "optimizer": "random",
        "budget": {"trials": 10},
        "executor": "serial",
        "study": str(folder / "study"),
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings))
    return file


def divergences(prompts: dict[str, Path], **options: object) -> dict[str, object]:
    """A task for each expert, on its own prompts."""
    return {
        f"to_{name}": {"evaluator": "kl_to_expert", "file": str(file), "expert": name, "max_new_tokens": 4, **options}
        for name, file in prompts.items()
    }


def test_a_front_over_experts_needs_no_labels(tiny: TinyModels, prompts: dict[str, Path], tmp_path: Path) -> None:
    run_here(write_search(tmp_path, tiny, divergences(prompts), objective="pareto"))
    run = Run(tmp_path / "study")
    for split in ("search", "report"):
        means = {point.label: point.means for point in run.scored(split).points}
        for name in NAMES:
            others = [mean[f"to_{name}"] for label, mean in means.items() if label != f"parent:{name}"]
            assert min(others) > 1e-3
            if f"parent:{name}" in means:
                assert means[f"parent:{name}"][f"to_{name}"] == pytest.approx(0.0, abs=1e-5)
    assert not run.best.is_parent


@pytest.mark.slow
def test_gradients_follow_what_has_no_labels(tiny: TinyModels, prompts: dict[str, Path], tmp_path: Path) -> None:
    tasks = divergences(prompts) | {
        f"certain_{name}": {"evaluator": "entropy", "file": str(file), "max_new_tokens": 4}
        for name, file in prompts.items()
    }
    agreeing = {"evaluator": "agreement", "file": str(prompts["sort"]), "expert": "sort", "max_new_tokens": 8}
    file = write_search(tmp_path, tiny, tasks | {"agrees": agreeing})
    plan = prepare(load_config(file))
    bench, ids = plan.spec(), plan.search_examples.ids
    examples = {task: each[:6] for task, each in ids.items()}
    x = np.array([0.4, 0.3])
    for task in examples:
        part, weights = {task: examples[task]}, {task: 1.0}
        outcome = bench.run(Trial(0, x, examples=part, gradient=weights))
        assert outcome.failure is None, outcome.failure
        assert outcome.gradient is not None
        slopes = []
        for axis in np.eye(2) * 1e-3:
            above, below = (bench.run(Trial(0, x + side, examples=part, gradient=weights)) for side in (axis, -axis))
            slopes.append((above.scores[task].mean - below.scores[task].mean) / 2e-3)
        np.testing.assert_allclose(outcome.gradient, slopes, rtol=0.05, atol=2e-3)


def test_an_expert_is_learned_once_per_split(
    tiny: TinyModels, prompts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[tuple[str, str]] = []
    own = Bench._learn

    def learn(self: Bench, task: str, expert: str, split: str) -> None:
        learned.append((expert, split))
        own(self, task, expert, split)

    monkeypatch.setattr(Bench, "_learn", learn)
    bench = prepare(load_config(write_search(tmp_path, tiny, divergences(prompts)))).spec()
    first, *_, last = [
        bench.run(Trial(n, np.array([0.5, n / 4]), split=split))
        for n, split in enumerate(("search", "search", "select", "search"))
    ]
    assert learned == [(name, split) for split in ("search", "select") for name in NAMES]
    again = bench.run(Trial(0, np.array([0.5, 0.0])))
    assert again.scores["to_sort"].values.tolist() == first.scores["to_sort"].values.tolist()
    assert again.scores["to_sort"].values.tolist() != last.scores["to_sort"].values.tolist()


def test_an_expert_that_is_not_merged_is_refused_with_its_place(
    tiny: TinyModels, prompts: dict[str, Path], tmp_path: Path
) -> None:
    file = write_search(tmp_path, tiny, divergences(prompts, expert="cuont"))
    with pytest.raises(
        ConfigError, match=r"search.yaml:\d+: tasks.to_count: unknown expert 'cuont'; did you mean 'count'"
    ):
        prepare(load_config(file))
