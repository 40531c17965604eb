"""The JSON schema of search files: it accepts every file that is shown or tested, and refuses typical mistakes."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge import plugins
from evomerge.cli import app
from evomerge.config.schema import MEANINGS, search_schema
from tests.evomerge.config.test_config import FULL, SMALL
from tests.test_documents import _YAML, CURRENT

ROOT = Path(__file__).parents[3]
#: Search files on disk; those of golden runs are what the command `search` itself writes.
FILES = sorted({*ROOT.glob("experiments/*/*.yaml"), *ROOT.glob("tests/golden/*/search.yaml")})


@cache
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(search_schema())
    return Draft202012Validator(search_schema())


def mistakes(data: Any) -> list[str]:
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator().iter_errors(data)]


def test_search_files_of_the_experiments_and_of_finished_runs_are_valid() -> None:
    assert len(FILES) > 10
    for file in FILES:
        assert not mistakes(strict_yaml.load(file.read_text(encoding="utf-8")).data), file


def test_search_files_and_their_parts_in_the_documents_are_valid() -> None:
    for path in CURRENT:
        for text in _YAML.findall(path.read_text(encoding="utf-8")):
            data = strict_yaml.load(text).data
            if "evomerge" not in data:
                rest = {} if "study" in data else strict_yaml.load(FULL).data
                assert not mistakes({**rest, **data}), (path, text)


@pytest.mark.parametrize(
    "more",
    [
        "",
        "code: [lab, other]",
        "racing: off",
        "racing: 'off'",
        "workers: 3\ngpus_per_worker: 0.5\nthreads: 1\nbatch_tokens: auto",
        "backend: {kind: vllm, gpu_memory_utilization: 0.5}",
        "objective: {kind: chebyshev, weights: {one: 1}}",
        "objective: pareto\nprefer: {one: 2}",
        "keep: -1.5pt",
        "keep: {one: 99.5%, two: 0.01, three: {flips: 1%}}",
        "optimizer: my_lab.search:Annealing",
        "method: [linear, {kind: ties, normalize: false}, my:own]",
        "device: cuda:1\ntrial_timeout: 90\nsplit: {salt: b}",
        "stages: {first: {seed: 1}, second: {base: first, budget: {hours: 1.5}}}",
    ],
)
def test_every_way_to_write_an_entry_is_valid(more: str) -> None:
    assert not mistakes(strict_yaml.load(f"{SMALL}{more}").data)


def test_models_may_be_named_by_the_stages_or_by_checkpoints() -> None:
    stages = "stages: {one: {base: b, experts: [c], tasks: {t: synthetic}}}\nstudy: s"
    run = "checkpoints: run/checkpoint-*\ntasks: {t: synthetic}\nstudy: s"
    assert not mistakes(strict_yaml.load(stages).data)
    assert not mistakes(strict_yaml.load(run).data)
    assert mistakes(strict_yaml.load(run.replace("checkpoints", "base")).data)


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        ("seed: 0", "sedd: 0"),
        ("trials: 200", "trails: 200"),
        ("trials: 200", "trials: 0"),
        ("search: 0.5", "serch: 0.5"),
        ("base: models/base", "base: {path: x, rev: y}"),
        ("base: models/base\n", ""),
        ("executor: ray", "executor: rya"),
        ("workers: auto", "workers: 0"),
        ("kind: ties", "kind: tise"),
        ("kind: smooth", "kind: smoth"),
        ("kind: cma_es", "kind: cmaes"),
        ("evaluator: lm_eval_task", "evaluator: lm_eval"),
        ("evaluator: multiple_choice, ", ""),
        ("{sort: 1, add: 2}", "{sort: 0, add: 2}"),
        ("{sort: 1, add: 2}", "men"),
        ("{add: models/add, sort: models/sort}", "[]"),
        ("device: auto", "device: gpu"),
        ("dtype: float32", "dtype: float64"),
        ("seed: 0", "seed: many"),
        ("seed: 0", "keep: {sort: -0.1}"),
        ("seed: 0", "racing: fast"),
        ("seed: 0", "stages: {one: {sede: 0}}"),
        ("seed: 0", "stages: {one: {study: elsewhere}}"),
        ("study: runs/quick", ""),
    ],
)
def test_typical_mistakes_are_refused(found: str, instead: str) -> None:
    assert found in FULL
    assert not mistakes(strict_yaml.load(FULL).data)
    assert mistakes(strict_yaml.load(FULL.replace(found, instead)).data)


def test_the_command_prints_or_writes_it_with_names_and_defaults(tmp_path: Path) -> None:
    shown = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    assert shown == search_schema()
    assert not CliRunner().invoke(app, ["schema", "-o", str(tmp_path / "schema.json")]).stdout
    assert json.loads((tmp_path / "schema.json").read_text(encoding="utf-8")) == shown
    keys = shown["$defs"]
    assert keys["method"]["anyOf"][0]["enum"] == list(plugins.names("merge method"))
    assert (keys["budget"]["default"], keys["space"]["default"]) == ({"trials": 200}, "auto")
    assert (keys["objective"]["default"], keys["seed"]["default"]) == ("mean", 0)
    assert "default" not in keys["base"]


def test_meanings_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs/search-files.md").read_text(encoding="utf-8").replace("\n", " ")
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).lower()
    for key, meaning in MEANINGS.items():
        if key not in ("workers", "gpus_per_worker", "threads"):  # one row for the three
            for part in meaning.split("; a list of several"):
                assert part.lower() in plain, key
