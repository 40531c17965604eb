"""Adapters where models are: drafted, checked, searched over, exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.commands.init import draft
from evomerge.config import ConfigError, load_config
from evomerge.export import export
from evomerge.launch import launch
from evomerge.launch.plan import prepare
from evomerge.merging.models.adapter import Adapted
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.recipe import Input
from evomerge.run import Run
from evomerge.study import Study
from tests.evomerge.merging.adapters import bare_lora
from tests.toys import NAMES, search_file, write_toys


@pytest.fixture
def adapters(tmp_path: Path) -> tuple[Path, list[Path]]:
    """A toy base and two adapters of rank 2 on its layers."""
    base, _ = write_toys(tmp_path / "models")
    random = torch.Generator().manual_seed(1)
    made = []
    for name in ("math", "code"):
        modules = [name.removesuffix(".weight") for name in NAMES if "layers" in name]
        shapes = {"lora_A.weight": (2, 6), "lora_B.weight": (4, 2)}
        tensors = {f"{m}.{part}": torch.randn(s, generator=random) for m in modules for part, s in shapes.items()}
        made.append(bare_lora(tmp_path / "adapters" / name, tensors, r=2, lora_alpha=1))
    return base, made


def test_the_draft_takes_adapters(tmp_path: Path, adapters: tuple[Path, list[Path]]) -> None:
    base, folders = adapters
    file = tmp_path / "search.yaml"
    file.write_text(draft(str(base), [str(folder) for folder in folders], ["t"], file, "s").text)
    config = load_config(file)
    assert config.experts == tuple(Input(folder.name, str(folder)) for folder in folders)
    with pytest.raises(CheckpointError, match="name the model that it was trained on"):
        draft(str(folders[0]), [str(base)], ["t"], file, "s")


def test_a_search_file_names_adapters_and_statistics(tmp_path: Path) -> None:
    experts = {"a": {"path": "base", "adapter": "lora"}, "b": {"path": "x/y", "revision": "v1", "statistics": "s"}}
    file = tmp_path / "search.yaml"
    file.write_text(strict_yaml.dump({**search_file(tmp_path), "experts": experts}))
    config = load_config(file)
    a = Input("a", str(tmp_path / "base"), adapter=str(tmp_path / "lora"))
    assert config.experts == (a, Input("b", "x/y", "v1", statistics=str(tmp_path / "s")))
    again = tmp_path / "deep" / "search.yaml"
    again.parent.mkdir()
    config.write(again)
    assert load_config(again).experts == config.experts
    file.write_text(strict_yaml.dump({**search_file(tmp_path), "experts": {"a": {"path": "base", "adapter": 3}}}))
    with pytest.raises(ConfigError, match="expected the path of an adapter; got 3"):
        load_config(file)


@pytest.mark.parametrize("method", ["task_arithmetic", "lora_ties", "copa"])
def test_a_search_over_adapters_finds_the_same_weights_as_its_export(
    tmp_path: Path, adapters: tuple[Path, list[Path]], method: str
) -> None:
    base, (alone, below) = adapters
    experts = {"math": str(alone), "code": {"path": str(base), "adapter": str(below)}}
    file = tmp_path / "search.yaml"
    settings = search_file(tmp_path, method=method, base=str(base), experts=experts, budget={"trials": 12})
    file.write_text(strict_yaml.dump(settings))
    checked = CliRunner().invoke(app, ["check", str(file), "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.output)["experts"] == ["math", "code"]
    config = load_config(file)
    ending, _ = launch.run(config, prepare(config), resume=False)
    assert ending.kind == "done", ending.message
    entries = Study.read(Path(config.study)).told
    assert all(entry.outcome is not None and entry.outcome.failure is None for entry in entries)
    assert len({entry.losses for entry in entries if entry.trial.label == "search"}) > 1
    expert = next(entry.trial.number for entry in entries if entry.trial.label == "parent:math")
    export.export(export.choose(Run(config.study), expert), tmp_path / "out")
    model = Adapted(Checkpoint.open(base), alone)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], model.tensor(name)) for name in model.names)


def test_check_refuses_an_adapter_of_another_model(tmp_path: Path, adapters: tuple[Path, list[Path]]) -> None:
    _, folders = adapters
    other = tmp_path / "other.safetensors"
    save_file({name: torch.ones(6, 6) for name in NAMES}, other)
    file = tmp_path / "search.yaml"
    experts = {folder.name: str(folder) for folder in folders}
    file.write_text(strict_yaml.dump(search_file(tmp_path, base=str(other), experts=experts)))
    refused = CliRunner().invoke(app, ["check", str(file)])
    assert refused.exit_code == 3
    assert "does not fit the model" in refused.stderr
    assert "'model.layers.0.self_attn.q_proj.weight' (6, 6) has factors (4, 2), (2, 6) of rank 2" in refused.stderr
