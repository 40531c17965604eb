"""Candidates as adapters for real vLLM: they write what the merged candidates write."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluators._endings import Generation
from evaluators._engines import write_with
from evaluators._examples import read_json_lines
from evaluators._generation import Generator
from evomerge.bench import Bench
from evomerge.config import ConfigError
from evomerge.launch.plan import Plan, prepare
from evomerge.merging.recipe_models import open_models
from evomerge.merging.stacked import StackedAdapters
from evomerge.recipe import Input, Merge, Recipe
from evomerge.resident.resident import load_resident
from evomerge.resident.vllm_engine import EngineError, VllmEngine
from evomerge.study import Study
from evomerge.trial import Trial
from search_spaces.base import CoefficientTable
from tests.evaluators.tiny_llama import build
from tests.evomerge.merging.adapters import lora
from tests.vllm.conftest import BACKEND, LONG, Configured, run, told

pytestmark = pytest.mark.vllm
STACKING = {**BACKEND, "enable_lora": True}


@pytest.fixture
def plan(of_adapters: Configured) -> Plan:
    found = prepare(of_adapters(backend=STACKING))
    assert found.spec.stacked
    return found


@pytest.fixture
def prompts(models: Path) -> list[str]:
    return [line.prompt(None, None) for line in read_json_lines(str(models / "data/sort.jsonl"), None)]


def written(bench: Bench, prompts: list[str]) -> list[Generation]:
    return Generator(bench.model, prompts, 8, ("\n",)).run(bench.model.network, range(len(prompts)))


def points(plan: Plan, count: int) -> Iterator[Trial]:
    """Candidates with another weight for every layer and expert."""
    for seed in range(count):
        yield Trial(seed, np.random.default_rng(seed).random(plan.space.dimension), label="search")


def test_candidates_write_the_texts_of_their_merges(plan: Plan, of_adapters: Configured, prompts: list[str]) -> None:
    """Parents and baselines too; ties between tokens aside, which rounding decides."""
    stacking, merging = plan.spec(), prepare(of_adapters(backend=BACKEND)).spec()
    assert not merging.spec.stacked
    canary, *others = plan.planned
    assert stacking.run(canary).failure is None  # compares probabilities with those of merged weights
    before = {name: tensor.clone() for name, tensor in stacking.model.tensors.items()}
    texts = set()
    for trial in (*others, *points(plan, 3)):
        found, expected = stacking.run(trial), merging.run(trial)
        assert found.failure is None
        for task, scores in expected.scores.items():
            np.testing.assert_allclose(found.scores[task].values.mean(), scores.values.mean(), atol=0.03)
        mine, other = written(stacking, prompts), written(merging, prompts)
        assert sum(a == b for a, b in zip(mine, other, strict=True)) >= 0.98 * len(prompts), trial.label
        texts.add(tuple(one.text for one in mine))
    assert len(texts) >= len(others)  # the start is the uniform average, the others differ
    for name, tensor in stacking.model.tensors.items():
        assert tensor.equal(before[name]), "nothing was merged"


def test_keys_of_another_candidate_are_not_reused(tmp_path: Path) -> None:
    """Prompts of more than one block of the prefix cache, continued under two candidates in turns, and the base."""
    made = build(tmp_path / "long", 1, **LONG)
    folders = [lora(tmp_path / name, made.folder, seed, r=3) for seed, name in enumerate("ab")]
    recipe = Recipe(Input("base", str(made.folder)), tuple(Input(f.name, str(f)) for f in folders), "task_arithmetic")
    models = open_models(recipe)
    engine = models.engine()
    resident = load_resident(models.base, made.folder, None, "cpu")
    options = {"kv_cache_memory_bytes": 50_000_000, "max_model_len": 400}
    stacks = StackedAdapters(engine, models.base, models.inputs)
    backend = VllmEngine(resident, made.folder, made.folder, options, stacks)
    write_with(resident.network, backend)
    prompts = [f"{'so many words ' * 20}{n}=" for n in range(4)]
    texts: dict[float, list[Generation]] = {}
    for weight in (0.0, 1.0, -0.6, 1.0, 0.0):
        merge = Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": np.array([[weight, weight / 2]])}))
        engine.apply(merge, resident.tensors)
        backend.follow(merge)
        found = Generator(resident, prompts, 8, ()).run(resident.network, range(len(prompts)))
        assert texts.setdefault(weight, found) == found
        backend.check()
    assert texts[0.0] != texts[1.0] != texts[-0.6]


def test_an_adapter_with_another_change_is_noticed(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary notices it: here, vLLM gets factors that are scaled by twice the coefficients."""
    bench = plan.spec()
    engine = bench._engine
    assert engine is not None
    make = engine._adapters.tensors
    monkeypatch.setattr(
        type(engine._adapters),
        "tensors",
        lambda _, merge: {name: (2 if "lora_B" in name else 1) * each for name, each in make(merge).items()},
    )
    failure = bench.run(plan.planned[0]).failure
    assert failure is not None
    assert failure.kind == EngineError.__name__
    assert "log-probabilities" in failure.message


def test_a_search_and_its_resume(of_adapters: Configured, tmp_path: Path) -> None:
    of_adapters(backend=STACKING, study=str(tmp_path / "study"), budget={"trials": 12})
    run(tmp_path / "search.yaml")
    study = Study.read(tmp_path / "study")
    assert study.environment["vllm_candidates"] == "adapters"
    assert any(entry.trial.label.startswith("rerun:") for entry in study.entries.values())
    first = told(tmp_path / "study")
    run(tmp_path / "search.yaml", "--resume", "--extend", "2")
    assert told(tmp_path / "study")[: len(first)] == first
    assert len(told(tmp_path / "study")) > len(first)


def test_adapters_that_are_asked_for_and_impossible(of_adapters: Configured) -> None:
    with pytest.raises(ConfigError, match=r"enable_lora asks for .* but ties is not always a sum of the adapters'"):
        prepare(of_adapters(backend=STACKING, method="ties"))
