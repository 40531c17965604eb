"""Experts whose config.json computes different outputs: named by check, and scored as their folders are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import build_evaluator, split_ids
from evomerge.cli import app
from evomerge.config import ConfigError, load_config
from evomerge.launch.plan import LaunchError, prepare
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.models.settings import setting_differences
from evomerge.resident.resident import load_resident
from tests.evomerge.networks import write_network

ROPE = {"rope_theta": 30.0, "rope_type": "default"}


def change(folder: Path, **settings: Any) -> None:
    """Settings of config.json: changed, or taken out where they are None."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | settings
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def search_file(folder: Path, paths: dict[str, Path], **changes: object) -> Path:
    (folder / "text.txt").write_text(" ".join(f"there were {n} of them." for n in range(60)), encoding="utf-8")
    search = {
        "base": str(paths["base"]),
        "experts": {name: str(paths[name]) for name in ("a", "b")},
        "method": "linear",
        "space": {"kind": "uniform", "ranges": {"weight": [0, 1]}},
        "tasks": {"prose": {"evaluator": "perplexity", "file": str(folder / "text.txt"), "window": 20}},
        "optimizer": "random",
        "budget": {"trials": 8},
        "executor": "serial",
        "device": "cpu",
        "study": str(folder / "study"),
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search | changes), encoding="utf-8")
    return file


def test_check_names_the_setting_with_both_values(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    change(paths["b"], rope_parameters=ROPE)
    done = CliRunner().invoke(app, ["check", str(search_file(tmp_path, paths))])
    said = " ".join(done.output.split())
    assert done.exit_code == 0, said
    assert "b: rope_parameters.rope_theta is 30.0, the base's is 10000.0" in said
    assert "parent:b is scored under its own config.json" in said
    assert "a: " not in said


def test_check_refuses_such_a_parent_on_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_network(tmp_path, "llama")
    change(paths["b"], rope_parameters=ROPE)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    cluster = {"executor": "ray", "device": "auto", "ray_address": "127.0.0.1:6379"}
    prepare(load_config(search_file(tmp_path, paths, **cluster, gpus_per_worker=1)))
    with pytest.raises(ConfigError, match=r"gpus_per_worker: 2 GPUs .*b: rope_parameters.*per_worker: 1\.$"):
        prepare(load_config(search_file(tmp_path, paths, **cluster, gpus_per_worker=2)))


def test_a_parent_scores_what_its_folder_does_and_merges_are_under_the_base(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    change(paths["b"], rope_parameters=ROPE, rms_norm_eps=0.1)
    plan = prepare(load_config(search_file(tmp_path, paths)))
    planned = {trial.label: trial for trial in plan.planned}
    assert planned["parent:b"].x is None, "the merge with its weights has another score"
    assert planned["parent:a"].x is not None
    corner = planned["start"].changed(x=np.array([0.0, 1.0]))
    assert plan.same(planned["parent:b"]) is None, "the merge with its weights is another model"
    assert plan.same(corner) is not None
    bench = plan.spec()
    evaluator = build_evaluator(plan.spec.tasks["prose"])
    ids = split_ids(evaluator, "search", plan.spec.split)

    def alone(folder: Path) -> np.ndarray[Any, Any]:
        return evaluator.score(load_resident(Checkpoint.open(folder), folder, None, "cpu"), ids).values

    def scored(label: str) -> np.ndarray[Any, Any]:
        outcome = bench.run(planned[label])
        assert outcome.failure is None, outcome.failure.traceback
        return outcome.scores["prose"].values

    for _ in range(2):  # one after the other, and again
        for label, folder in (("parent:b", paths["b"]), ("parent:a", paths["a"]), ("base", paths["base"])):
            np.testing.assert_array_equal(scored(label), alone(folder))
    change(paths["b"], rope_parameters=None, rms_norm_eps=None)
    assert not np.array_equal(alone(paths["b"]), scored("parent:b"))


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("llama", {"rms_norm_eps": 0.1}, "rms_norm_eps"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"num_attention_heads": 4, "head_dim": 4}, "num_attention_heads"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("mixtral", {"sliding_window": 4}, "sliding_window"),
        ("mixtral", {"num_experts_per_tok": 2}, "num_experts_per_tok"),
        ("llama_dynamic", {"max_position_embeddings": 8}, "max_position_embeddings"),
        ("resnet", {"hidden_act": "silu"}, "hidden_act"),
    ],
)
def test_settings_that_change_what_is_computed(tmp_path: Path, kind: str, settings: dict[str, Any], named: str) -> None:
    paths = write_network(tmp_path, kind, 1)
    base = Checkpoint.open(paths["base"])
    assert setting_differences(base, {"a": Checkpoint.open(paths["a"])}) == {}
    change(paths["a"], **settings)
    (found,) = setting_differences(base, {"a": Checkpoint.open(paths["a"])}).values()
    assert any(sentence.startswith(f"{named} is ") for sentence in found), found


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": None, "rms_norm_eps": None, "attention_bias": None},
        {"max_position_embeddings": 4096, "use_cache": False, "attention_dropout": 0.5, "initializer_range": 0.1},
        {"dtype": "bfloat16", "_name_or_path": "x/y", "unsloth_version": "1", "transformers_version": "4.40.0"},
        {"eos_token_id": [2, 3], "pretraining_tp": 2},
    ],
)
def test_defaults_and_settings_of_training_are_no_difference(tmp_path: Path, settings: dict[str, Any]) -> None:
    paths = write_network(tmp_path, "llama", 1)
    change(paths["a"], **settings)
    assert setting_differences(Checkpoint.open(paths["base"]), {"a": Checkpoint.open(paths["a"])}) == {}


def test_an_expert_of_another_architecture_is_refused(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    change(paths["b"], architectures=["Qwen2ForCausalLM"], model_type="qwen2")
    with pytest.raises(
        CheckpointError, match=r"b .* architecture is 'Qwen2ForCausalLM', the base's is 'LlamaForCausalLM'"
    ):
        prepare(load_config(search_file(tmp_path, paths)))


def test_a_soup_of_models_under_several_configurations_is_refused(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    change(paths["b"], rope_parameters=ROPE)
    with pytest.raises(LaunchError, match=r"greedy_soup .* b's"):
        prepare(load_config(search_file(tmp_path, paths, optimizer="greedy_soup")))
