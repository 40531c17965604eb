"""Networks whose tensors transformers renames or fuses on loading: searched, resident as exported, refused by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.prepare.calibration.data import CollectionError
from evomerge.prepare.calibration.layers import parts
from evomerge.resident.places import Staged
from evomerge.resident.resident import ModelError, check_resident, load_resident
from tests.architectures.kinds import KINDS
from tests.architectures.models import a_merge, differences, outputs, run, write_models, write_search
from tests.evomerge.merging.folders import change_config, llama


@pytest.mark.parametrize("kind", ["Mixtral", "ViT"])
def test_search_of_converted_checkpoints(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models(kind, tmp_path)
    file = write_search(tmp_path, kind)
    assert run("check", file)[0] == 0
    code, said = run("search", file, "--json")
    assert code == 0, said
    assert '"winner"' in said


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["Mixtral", "NomicBERT", "LLaVA", "T5"])
def test_resident_is_export_is_transformers(kind: str, dtype: str, tmp_path: Path) -> None:
    """Renamed and stacked; rearranged, which no view shows; several stacks; float32 kept in a network of float16."""
    places = write_models(kind, tmp_path)
    assert check_resident(Checkpoint.open(places["base"])) == ()
    assert differences(kind, places, tmp_path / "out", dtype) == []


def test_experts_are_views_of_one_tensor_and_nothing_is_held_twice(tmp_path: Path) -> None:
    base = Checkpoint.open(write_models("Mixtral", tmp_path)["base"])
    model = load_resident(base, base.path, None, "cpu")
    expert = model.tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    fused = model.network.state_dict()["model.layers.1.mlp.experts.gate_up_proj"]
    expert.fill_(7)
    assert bool((fused[2, 48:] == 7).all())
    assert int((fused == 7).sum()) == expert.numel()
    assert model.staged == ()


def test_what_is_no_view_reaches_the_network_when_it_settles_and_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint.open(write_models("NomicBERT", tmp_path)["base"])
    model = load_resident(base, base.path, None, "cpu")
    name = model.staged[0]
    before = outputs(model.network, "NomicBERT")[0]
    model.tensors[name].mul_(2)
    assert torch.equal(outputs(model.network, "NomicBERT")[0], before)
    model.settle()
    assert not torch.equal(outputs(model.network, "NomicBERT")[0], before)
    monkeypatch.setattr(Staged, "made", None)
    model.settle()


def test_gradients_of_experts_are_those_of_their_part_of_the_fused_tensor(tmp_path: Path) -> None:
    base = Checkpoint.open(write_models("Mixtral", tmp_path)["base"])
    model = load_resident(base, base.path, None, "cpu")
    found = parts(model)
    assert list(found) == list(base.names)
    fused = model.network.get_parameter("model.layers.0.mlp.experts.gate_up_proj").requires_grad_(True)
    model.network(**KINDS["Mixtral"].inputs()).logits.square().sum().backward()
    gate, up = (found[f"model.layers.0.block_sparse_moe.experts.3.{name}.weight"].grad for name in ("w1", "w3"))
    assert torch.equal(torch.cat([gate, up]), fused.grad[3])
    assert bool((up != 0).any())


def test_statistics_of_tensors_that_are_no_views_are_refused(tmp_path: Path) -> None:
    base = Checkpoint.open(write_models("NomicBERT", tmp_path)["base"])
    with pytest.raises(CollectionError, match="can only be merged and searched"):
        parts(load_resident(base, base.path, None, "cpu"))


def test_tensors_held_twice_are_merged_as_transformers_would_load_them(tmp_path: Path) -> None:
    """Equal in the base, tied by its configuration: merged with other weights each they are no longer equal."""
    places = write_models("Llama, tied", tmp_path)
    for place in places.values():
        tensors = load_file(place / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
    assert differences("Llama, tied", places, tmp_path / "out") == []


def test_check_refuses_by_name_what_a_search_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder loads in transformers, with a warning: tensors ignored, or made up."""
    monkeypatch.chdir(tmp_path)
    places = write_models("Mixtral", tmp_path)
    file = write_search(tmp_path, "Mixtral")
    for place in places.values():
        tensors = load_file(place / "model.safetensors")
        tensors["model.layers.1.adapter.weight"] = torch.ones(2)
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
    code, said = run("check", file)
    assert (code, "model.layers.1.adapter.weight" in said) == (3, True), said
    for place in places.values():
        tensors = load_file(place / "model.safetensors")
        kept = {name: t for name, t in tensors.items() if "adapter" not in name and "layers.1.input_layer" not in name}
        save_file(kept, place / "model.safetensors", {"format": "pt"})
    code, said = run("check", file)
    assert (code, "model.layers.1.input_layernorm.weight" in said) == (3, True), said
    for place in places.values():
        tensors = load_file(place / "model.safetensors")
        tensors["model.layers.1.input_layernorm.weight"] = torch.ones(32)
        del tensors["model.layers.1.block_sparse_moe.experts.3.w1.weight"]
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
    code, said = run("check", file)
    assert (code, "model.layers.1.mlp.experts.gate_up_proj" in said) == (3, True), said


def test_another_class_in_the_configuration_is_refused(tmp_path: Path) -> None:
    base = llama(tmp_path)
    change_config(base, architectures=["LlamaModel"])
    with pytest.raises(ModelError, match=r"1 tensors have no place in transformers' LlamaModel: \"lm_head.weight\""):
        check_resident(Checkpoint.open(base))
    change_config(base, architectures=["LlamaForSequenceClassification"], num_labels=2)
    with pytest.raises(ModelError, match="no place"):
        check_resident(Checkpoint.open(base))
    change_config(base, architectures=["Trainer"])
    with pytest.raises(CheckpointError, match="'Trainer' as the architecture, which is not a model class"):
        check_resident(Checkpoint.open(base))
    change_config(base, architectures=["LlamaForCausalLM"], hidden_size=24)
    with pytest.raises(ModelError, match=r"do not fit .* \(24, 16\), expected \(24, 24\)"):
        check_resident(Checkpoint.open(base))


def test_a_configuration_without_a_class_makes_a_causal_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in write_models("Llama", tmp_path).values():
        config = json.loads((place / "config.json").read_text())
        del config["architectures"]
        (place / "config.json").write_text(json.dumps(config))
    code, said = run("check", write_search(tmp_path, "Llama"))
    assert code == 0, said


def test_parameters_for_training_only_may_be_missing_and_are_never_read_unnoticed(tmp_path: Path) -> None:
    base = write_models("HuBERT", tmp_path)["base"]
    tensors = load_file(base / "model.safetensors")
    del tensors["hubert.masked_spec_embed"]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    opened = Checkpoint.open(base)
    assert check_resident(opened) == ()
    network = load_resident(opened, base, None, "cpu").network
    assert bool(network.hubert.masked_spec_embed.isnan().all())
    assert bool(outputs(network, "HuBERT")[0].isfinite().all())


def test_tensors_that_transformers_leaves_aside_are_merged_and_said(tmp_path: Path) -> None:
    """DeepSeek-V3 comes with a further block for predicting two tokens at once, which transformers does not load."""
    places = write_models("DeepSeek-V3", tmp_path)
    for number, place in enumerate(places.values()):
        tensors = load_file(place / "model.safetensors")
        tensors["model.layers.61.enorm.weight"] = torch.full((32,), float(number))
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
    (note,) = check_resident(Checkpoint.open(places["base"]))
    assert "does not load 1 tensors (model.layers.61.enorm.weight)" in note
    assert differences("DeepSeek-V3", places, tmp_path / "out") == []
    written = load_file(tmp_path / "out" / "model.safetensors")["model.layers.61.enorm.weight"]
    table = a_merge(places).table
    weights = table.values["weight"][list(table.groups).index("model.layers.61.enorm.weight")]
    torch.testing.assert_close(written, torch.full((32,), float(weights @ [1.0, 2.0])))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["DeepseekV3ForCausalLM"]
