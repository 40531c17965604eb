"""Searches for paths through the blocks of trained models: scores, baselines, kills, exports."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Scores
from evomerge.bench import build_evaluator
from evomerge.cli import app
from evomerge.config import ConfigError, load_config, load_stages
from evomerge.launch.launch import open_study
from evomerge.launch.plan import prepare
from evomerge.merging.method import MethodError
from evomerge.merging.models.header import CheckpointError
from evomerge.optimizers.base import OptimizerError
from evomerge.resident.resident import ResidentModel, read_tokenizer
from evomerge.run import Run
from evomerge.study import Entry, Study
from search_spaces.base import SpaceError
from tests.conftest import TinyModels
from tests.evomerge.networks import write_network
from tests.evomerge.searches import history, run_here

pytestmark = pytest.mark.timeout(3600)

SPACE = {"kind": "dataflow", "repetitions": 2, "max_length": 6}


def write_search(folder: Path, tiny: TinyModels, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    evaluators = {"count": "multiple_choice", "sort": "exact_match"}
    settings: dict[str, object] = {
        "base": str(tiny.base),
        "experts": {name: str(tiny.experts[name]) for name in ("count", "sort")},
        "method": "passthrough",
        "dtype": "float32",
        "space": SPACE,
        "tasks": {name: {"evaluator": kind, "file": str(tiny.tasks[name])} for name, kind in evaluators.items()},
        "optimizer": "random",
        "budget": {"trials": 12},
        "executor": "serial",
        "study": str(folder / "study"),
        **changes,
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings))
    return file


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def finished(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("dataflow")
    run_here(write_search(folder, tiny))
    return folder


def candidates(study: Study) -> list[Entry]:
    return [e for e in study.told if e.trial.label == "search" and e.trial.split == "search"]


def scores_of_folder(folder: Path, run: Run, entry: Entry) -> dict[str, Scores]:
    """What transformers gives for a folder, loaded without anything else of evomerge than the evaluators."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    model = ResidentModel({}, network, read_tokenizer(folder))
    assert entry.outcome is not None
    found = {}
    for task, scores in entry.outcome.scores.items():
        found[task] = build_evaluator(run.config.tasks[task]).score(model, scores.example_ids)
    return found


def check_same(entry: Entry, found: dict[str, Scores]) -> None:
    assert entry.outcome is not None
    for task, scores in entry.outcome.scores.items():
        assert scores.values.tolist() == found[task].values.tolist(), task
        for ours, theirs in zip(scores.choices or (), found[task].choices or (), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)  # a ledger has six digits


def test_parents_are_scored_as_they_are_and_landmarks_beside_them(finished: Path, tiny: TinyModels) -> None:
    run = Run(finished / "study")
    first = {entry.trial.label: entry for entry in run.study.told if entry.trial.split == "search"}
    baselines = ["base", "parent:count", "parent:sort", "blocks:count", "blocks:sort", "stack:count", "stack:sort"]
    assert [label for label in first if label != "search"] == ["canary", "start", *baselines]
    for label, folder in (("base", tiny.base), ("parent:count", tiny.experts["count"])):
        check_same(first[label], scores_of_folder(folder, run, first[label]))
    own, borrowed = (first[f"{kind}:count"].outcome for kind in ("parent", "blocks"))
    assert own is not None
    assert borrowed is not None
    assert [list(map(float, c)) for c in own.scores["count"].choices or ()] != [
        list(map(float, c)) for c in borrowed.scores["count"].choices or ()
    ]
    assert [
        kind for kind, data in run.study.events if kind == "same_model" and data["as"] == first["start"].trial.number
    ]
    assert [label for label, entry in first.items() if entry.trial.x is None] == ["parent:count", "parent:sort"]


def test_an_export_scores_as_its_path_did(finished: Path, tmp_path: Path) -> None:
    search = Run(finished / "study")
    repeated = 0
    for entry in candidates(search.study)[:2]:
        assert entry.trial.x is not None
        path = search.space.spaces[0].path(search.space.decode(entry.trial.x))
        assert path is not None
        assert len({step.scale for step in path.steps}) == len(path.steps) > 1
        repeated += max(Counter((step.model, step.block) for step in path.steps).values()) > 1
        out = tmp_path / str(entry.trial.number)
        run("export", finished / "study", "--trial", entry.trial.number, "-o", out)
        assert transformers.AutoConfig.from_pretrained(out).num_hidden_layers == len(path.steps)
        check_same(entry, scores_of_folder(out, search, entry))
        for recipe in ("recipe.yaml", "mergekit_config.yml"):
            run("merge", out / recipe, "-o", tmp_path / "again", "--overwrite")
            assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert repeated


def test_a_resumed_search_is_the_uninterrupted_one(finished: Path, tiny: TinyModels, tmp_path: Path) -> None:
    ledger = (finished / "study" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    cut = [i for i, line in enumerate(ledger) if b'"kind":"asked"' in line][10]  # a candidate was running
    file = write_search(tmp_path, tiny)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "ledger.jsonl").write_bytes(b"".join(ledger[: cut + 1]))
    run_here(file, "--resume")
    told = [[line for line in history(each / "study") if len(line) > 2] for each in (finished, tmp_path)]
    assert told[0] == told[1]


def test_paths_are_compared_with_experts_as_they_are(tiny: TinyModels, tmp_path: Path) -> None:
    rows = [json.loads(line)["question"] for line in tiny.tasks["count"].read_text().splitlines()[:40]]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in rows))
    options = {"evaluator": "kl_to_expert", "file": str(tmp_path / "prompts.jsonl"), "expert": "count"}
    plan = prepare(load_config(write_search(tmp_path, tiny, tasks={"near": {**options, "max_new_tokens": 4}})))
    bench, found = plan.spec(), {}
    for trial in plan.planned[1:6]:
        outcome = bench.run(trial)
        assert outcome.failure is None, outcome.failure
        found[trial.label] = float(outcome.scores["near"].values.mean())
    assert found["parent:count"] == pytest.approx(0.0, abs=1e-5)
    assert min(value for label, value in found.items() if label != "parent:count") > 1e-3


def test_views_show_slots(finished: Path) -> None:
    run("report", finished / "study", "--overwrite")
    assert "scale[1.base.block.1]" in (finished / "study" / "ledger.jsonl").read_text()
    assert '"slot"' in (finished / "study" / "report.html").read_text()
    done = CliRunner().invoke(app, ["export", str(finished / "study"), "--lora", "2", "-o", str(finished / "lora")])
    assert done.exit_code == 3
    assert "Export whole weights instead" in done.output


@pytest.mark.slow
def test_two_ray_workers_score_as_one_process(finished: Path, tiny: TinyModels, tmp_path: Path) -> None:
    run_here(write_search(tmp_path, tiny, executor="ray", workers=2))
    ours, theirs = (
        {e.trial.number: e.losses for e in candidates(Study.read(f / "study"))} for f in (finished, tmp_path)
    )
    assert ours == theirs


@pytest.mark.slow
def test_two_stages_search_weights_and_then_paths(tiny: TinyModels, tmp_path: Path) -> None:
    """The winner of the first is the base of the second, also where the second was interrupted."""
    stages = {
        "weights": {"method": "task_arithmetic", "space": "uniform", "budget": {"trials": 3}},
        "paths": {"base": "weights", "budget": {"trials": 3}},
    }
    file = write_search(tmp_path, tiny, stages=stages)
    checked = json.loads(run("check", file, "--json"))["stages"]
    assert checked["paths"]["waits_for"] == ["weights"]
    run_here(file)
    study = tmp_path / "study"
    first, second = Run(study / "weights"), Run(study / "paths")
    assert second.config.base.path == str(study / "weights" / "winner")
    chosen = next(e for e in first.study.told if e.trial.label == first.selected and e.trial.split == "report")
    base = next(e for e in second.study.told if e.trial.label == "base" and e.trial.split == "report")
    assert base.outcome is not None
    check_same(chosen, dict(base.outcome.scores))
    ledger = study / "paths" / "ledger.jsonl"
    whole, before = ledger.read_bytes(), history(study / "paths")
    ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))
    run_here(file, "--resume")
    told = [[line for line in each if len(line) > 2] for each in (before, history(study / "paths"))]
    assert told[0] == told[1]
    refused = CliRunner().invoke(app, ["search", str(file), "--trials", "3"])
    assert refused.exit_code == 2


def test_a_later_stage_that_has_begun_is_refused_before_the_first_one_begins(tiny: TinyModels, tmp_path: Path) -> None:
    stages = {"first": {"budget": {"trials": 3}}, "second": {"budget": {"trials": 3}}}
    file = write_search(tmp_path, tiny, stages=stages)
    for stage in load_stages(file):
        if stage.name == "second":
            open_study(stage.config, prepare(stage.config), resume=False).close()
    done = CliRunner().invoke(app, ["search", str(file)])
    assert (done.exit_code, "--resume" in done.stderr) == (2, True), done.output
    assert not (tmp_path / "study" / "first").exists()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"method": "task_arithmetic"}, SpaceError, "search.yaml:.*method: passthrough"),
        ({"method": "passthrough", "space": "layerwise"}, MethodError, "merges exactly 1 model"),
        ({"space": {**SPACE, "ranges": {"scale": [0, 2]}}}, SpaceError, "search.yaml:.*positive"),
        ({"space": {**SPACE, "ends": "largest"}}, SpaceError, "base, count, sort"),
        ({"tokenizer": "union"}, ConfigError, "tokenizer: not with `space: dataflow`"),
        ({"optimizer": "gradient"}, OptimizerError, "no gradients"),
        ({"gpus_per_worker": 2}, ConfigError, "gpus_per_worker: not with"),
    ],
)
def test_check_refuses_what_no_path_can_be(
    changes: dict[str, Any], error: type[Exception], words: str, tiny: TinyModels, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        prepare(load_config(write_search(tmp_path, tiny, **changes)))


def test_check_refuses_other_architectures_by_name(tiny: TinyModels, tmp_path: Path) -> None:
    written = {name: str(folder) for name, folder in write_network(tmp_path, "gpt2", 1).items()}
    file = write_search(tmp_path, tiny, base=written["base"], experts={"a": written["a"]})
    with pytest.raises(CheckpointError, match=r"GPT2LMHeadModel.*LlamaForCausalLM"):
        prepare(load_config(file))
