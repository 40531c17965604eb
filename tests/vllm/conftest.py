"""Models and search files of the tests with vLLM, which run in an environment of its own (`make vllm`)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.config import SearchConfig, load_config
from experiments.tiny_models.prepare import prepare
from experiments.tiny_models.sets import TINY
from experiments.tiny_models.train import Network
from tests.conftest import CACHE

Configured = Callable[..., SearchConfig]
#: Bytes for keys and values: several engines are alive in one process.
BACKEND = {"kind": "vllm", "kv_cache_memory_bytes": 50_000_000}


@pytest.fixture(scope="session")
def models() -> Path:
    """The tiny models, with heads of a size that vLLM's attention on CPUs has (32)."""
    root = CACHE / "vllm-models"
    prepare(root, replace(TINY, network=Network(hidden=64, layers=3, heads=2)), say=print)
    return root


@pytest.fixture
def configured(models: Path, tmp_path: Path) -> Configured:
    def make(**changes: object) -> SearchConfig:
        data = {
            "base": str(models / "base"),
            "experts": {name: str(models / name) for name in ("count", "sort")},
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
