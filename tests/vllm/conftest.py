"""Models and search files of the tests with vLLM, which run in an environment of its own (`make vllm`)."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.config import SearchConfig, load_config
from evomerge.merging.output.lora_export import export_lora
from evomerge.recipe import Input, Merge, Recipe
from evomerge.study import Study
from evomerge.study.state import Entry
from experiments.tiny_models.prepare import prepare
from experiments.tiny_models.sets import TINY
from experiments.tiny_models.train import Network
from search_spaces.base import CoefficientTable
from tests.conftest import CACHE

Configured = Callable[..., SearchConfig]
#: Bytes for keys and values: several engines are alive in one process.
BACKEND = {"kind": "vllm", "kv_cache_memory_bytes": 50_000_000}
#: Heads of 32, and room for prompts of more than one block of the prefix cache.
LONG = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
EXPERTS = ("count", "sort")
#: Ranks of the experts as adapters, which add up to a rank that vLLM has no room of its own for.
RANKS = {"count": 12, "sort": 8}


def run(file: Path, *options: str) -> None:
    done = CliRunner().invoke(app, ["search", str(file), *options])
    assert done.exit_code == 0, done.output


def told(folder: Path) -> list[object]:
    entries = [
        entry for entry in Study.read(folder).entries.values() if entry.trial.split == "search" and entry.outcome
    ]
    return [_facts(entry) for entry in entries if entry.trial.label != "canary"]


def _facts(entry: Entry) -> object:
    assert entry.outcome is not None
    assert entry.outcome.failure is None
    scores = {task: (each.values.tolist(), each.accepted) for task, each in entry.outcome.scores.items()}
    return entry.trial.label, None if entry.trial.x is None else entry.trial.x.tolist(), scores


@pytest.fixture(scope="session")
def models() -> Path:
    """The tiny models, with heads of a size that vLLM's attention on CPUs has (32)."""
    root = CACHE / "vllm-models"
    prepare(root, replace(TINY, network=Network(hidden=64, layers=3, heads=2)), say=print)
    return root


@pytest.fixture(scope="session")
def adapters(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The experts as adapters on the base: approximations of their changes to the layers."""
    made = {}
    for name, rank in RANKS.items():
        recipe = Recipe(Input("base", str(models / "base")), (Input(name, str(models / name)),), "task_arithmetic")
        merge = Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": np.array([[1.0]])}))
        made[name] = tmp_path_factory.mktemp("adapters") / name
        export_lora(merge, made[name], rank)
        only_layers(made[name])
    return made


def only_layers(adapter: Path) -> None:
    """Remove the factors of the output embeddings."""
    weights, settings = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    save_file({name: each for name, each in load_file(weights).items() if "lm_head" not in name}, weights)
    found = json.loads(settings.read_text())
    found["target_modules"] = [module for module in found["target_modules"] if module != "lm_head"]
    settings.write_text(json.dumps(found))


@pytest.fixture
def configured(models: Path, tmp_path: Path) -> Configured:
    def make(**changes: object) -> SearchConfig:
        data = {
            "base": str(models / "base"),
            "experts": {name: str(models / name) for name in EXPERTS},
            "backend": BACKEND,
            "space": "layerwise",
            "tasks": {
                "sort": {"evaluator": "exact_match", "file": str(models / "data/sort.jsonl"), "max_new_tokens": 8},
                "count": {"evaluator": "multiple_choice", "file": str(models / "data/count.jsonl"), "limit": 60},
            },
            "optimizer": "cma_es",
            "budget": {"trials": 14},
            "executor": "serial",
            "device": "cpu",
            "study": str(tmp_path / "study"),
        }
        file = tmp_path / "search.yaml"
        file.write_text(strict_yaml.dump({**data, **changes}))
        return load_config(file)

    return make


@pytest.fixture
def of_adapters(configured: Configured, models: Path, adapters: dict[str, Path]) -> Configured:
    """A search whose experts are adapters, and whose only task generates."""

    def make(**changes: object) -> SearchConfig:
        tasks = {
            name: {"evaluator": "exact_match", "file": str(models / f"data/{name}.jsonl"), "max_new_tokens": 8}
            for name in EXPERTS
        }
        experts = {name: str(adapter) for name, adapter in adapters.items()}
        return configured(**{"experts": experts, "tasks": tasks, **changes})

    return make
