"""A folder with all that the documents name, in which their blocks run: models, tasks, searches, a finished run."""

import json
import shutil
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from tests.conftest import TinyModels

#: Names of models on the pages, and the tiny model that each of them is here.
MODELS = {
    "models/base": "base",
    "models/math": "count",
    "models/code": "sort",
    "BASE": "base",
    "EXPERT": "count",
    "MODEL": "sort",
    "model": "base",
}
#: Names of files with questions on the pages, and the tiny task that each of them has here.
TASKS = {
    "my_questions.jsonl": "count",
    "quiz.jsonl": "sort",
    "math.jsonl": "sort",
    "code.jsonl": "sort",
    "examples.jsonl": "sort",
}
RECIPE = {
    "evomerge": 1,
    "base": "models/base",
    "inputs": {"math": "models/math", "code": "models/code"},
    "method": "task_arithmetic",
    "coefficients": {"weight": {"math": 0.5, "code": 0.5}},
    "dtype": "float32",
}
REGMEAN = {key: value for key, value in RECIPE.items() if key != "coefficients"} | {"method": "regmean"}
MERGEKIT = {
    "merge_method": "task_arithmetic",
    "base_model": "models/base",
    "models": [{"model": f"models/{name}", "parameters": {"weight": 0.5}} for name in ("math", "code")],
    "dtype": "float32",
}
EVOLVE = {
    "genome": {
        "models": ["models/math", "models/code"],
        "base_model": "models/base",
        "merge_method": "task_arithmetic",
        "layer_granularity": 1,
    },
    "tasks": [{"name": "gsm8k", "weight": 1.0, "metric": "exact_match,strict-match"}],
}
SEARCH = {
    "base": "models/base",
    "experts": {"math": "models/math", "code": "models/code"},
    "dtype": "float32",
    "space": {"kind": "uniform", "ranges": {"weight": [0, 1]}},
    "tasks": {
        "gsm8k": {"evaluator": "multiple_choice", "file": "my_questions.jsonl"},
        "mine": {"evaluator": "exact_match", "file": "quiz.jsonl", "max_new_tokens": 4},
    },
    "executor": "serial",
    "study": "runs/search",
}
SINGLE: dict[str, Any] = {"optimizer": "cma_es", "budget": {"trials": 14}}
PARETO: dict[str, Any] = {"objective": "pareto", "optimizer": "map", "budget": {"trials": 36}}


def prepare(folder: Path, tiny: TinyModels, *, pareto: bool) -> None:
    """Fill a folder, which is the current one. pareto: whether its search is one of several objectives."""
    for name, model in MODELS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tiny.root / model)
    for name, task in TASKS.items():
        shutil.copy(tiny.tasks[task], folder / name)
    lines = [json.loads(line) for line in tiny.tasks["sort"].read_text().splitlines()]
    (folder / "texts.txt").write_text("".join(f"{line['prompt']}{line['answer']}\n" for line in lines))
    questions = [
        {"context": "sort", "question": line["prompt"].removeprefix("sort "), "answer": line["answer"]}
        for line in lines
    ]
    (folder / "qa.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in questions))
    search = SEARCH | (PARETO if pareto else SINGLE)
    files = {"search.yaml": search, "recipe.yaml": RECIPE, "regmean.yaml": REGMEAN}
    files |= {"mergekit.yml": MERGEKIT, "evolve.yml": EVOLVE}
    for name, data in files.items():
        (folder / name).write_text(strict_yaml.dump(data), encoding="utf-8")
    evomerge("search", "search.yaml")
    for name in ("before", "monday", "tuesday"):
        shutil.copytree(folder / "runs/search", folder / "runs" / name)
    evomerge("merge", "recipe.yaml", "-o", "MERGED")
    evomerge("export", "runs/search", "-o", "merged")


def evomerge(*arguments: str) -> None:
    """Run a command in this process."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
