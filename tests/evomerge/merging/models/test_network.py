"""The network that a configuration makes: its class, and what of the weights does not fit it."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.models.network import NetworkError, architecture, check_network
from tests.evomerge.networks import KINDS, write_network


def change(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_saved_networks_fit_their_configurations(tmp_path: Path, kind: str) -> None:
    check_network(Checkpoint.open(write_network(tmp_path, kind, 0)["base"]))


@pytest.mark.parametrize("name", ["pipeline", "LlamaConfig", "AutoTokenizer", "PreTrainedModel", "NoSuchThing", 3])
def test_an_architecture_is_a_class_of_models(tmp_path: Path, name: object) -> None:
    base = write_network(tmp_path, "llama", 0)["base"]
    change(base, architectures=[name])
    with pytest.raises(NetworkError, match=str(name)):
        architecture(Checkpoint.open(base))


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("llama", {"num_hidden_layers": 3}, "9 tensors .* more than the weights"),
        ("llama", {"num_hidden_layers": 1}, "no place for 9 tensors .* of the weights"),
        ("llama", {"intermediate_size": 32}, "6 tensors of other shapes"),
        ("llama", {"architectures": ["BertForMaskedLM"]}, "more than the weights"),
        ("mixtral", {"num_local_experts": 3}, "cannot load these tensors|of other shapes|more than the weights"),
        ("t5", {"num_decoder_layers": 3}, "more than the weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, kind: str, settings: dict[str, Any], said: str
) -> None:
    paths = write_network(tmp_path, kind)
    change(paths["base"], **settings)
    with pytest.raises(CheckpointError, match=said):
        check_network(Checkpoint.open(paths["base"]))
    recipe = tmp_path / "recipe.yaml"
    models = "".join(f"- {{model: {paths[name]}, parameters: {{weight: 0.5}}}}\n" for name in "ab")
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: {paths['base']}\ndtype: float32\nmodels:\n{models}")
    done = CliRunner().invoke(app, ["merge", str(recipe), "-o", str(tmp_path / "out")])
    assert done.exit_code == 3, done.output
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_the_network_leaves_out_is_no_reason_outside_its_blocks(tmp_path: Path) -> None:
    base = write_network(tmp_path, "bert_mlm", 0)["base"]
    tensors = load_file(base / "model.safetensors")
    tensors["bert.pooler.dense.weight"] = tensors["cls.predictions.transform.dense.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    check_network(Checkpoint.open(base))
