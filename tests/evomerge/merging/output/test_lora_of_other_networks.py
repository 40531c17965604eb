"""LoRAs of networks with several stacks, tied matrices or renamed tensors: what PEFT makes of them, or a refusal."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from evomerge.merging.models.adapter import Adapted
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.models.network import hollow
from evomerge.merging.output.lora_export import export_lora
from evomerge.merging.output.peft_names import check_peft_names
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.adapters import bare_lora
from tests.evomerge.networks import write_network


def merge(paths: dict[str, Path]) -> Merge:
    """The merge that is the expert."""
    recipe = Recipe(Input("base", str(paths["base"])), (Input("a", str(paths["a"])),), "linear")
    names = Checkpoint.open(paths["base"]).layout().names
    return Merge(recipe, CoefficientTable({"all": names}, {"weight": np.ones((1, 1))}))


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("t5", "T5ForConditionalGeneration"),
        ("llava", "LlavaForConditionalGeneration"),
        ("gpt2", "GPT2LMHeadModel"),
        ("vit", "ViTForImageClassification"),
    ],
)
def test_every_layer_that_the_report_counts_is_changed_by_peft(tmp_path: Path, kind: str, architecture: str) -> None:
    paths = write_network(tmp_path, kind, 1)
    report = export_lora(merge(paths), tmp_path / "lora", 8)
    network = getattr(transformers, architecture).from_pretrained(str(paths["base"]))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PEFT uses of transformers
        warnings.filterwarnings("error", message=".*missing adapter keys")
        after = PeftModel.from_pretrained(network, str(tmp_path / "lora")).merge_and_unload().state_dict()
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(changed) == len(report.layers) > 6
    assert not any("relative_attention_bias" in name for name in report.layers), "an embedding has no such factors"


def test_names_that_peft_would_pass_over_are_refused(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "vit", 1)
    places = ("layers.0.attention.q_proj", "layers.9.attention.q_proj")
    parts = {"lora_A": torch.ones(1, 16), "lora_B": torch.ones(16, 1)}
    tensors = {f"vit.{place}.{part}.weight": value.clone() for place in places for part, value in parts.items()}
    adapter = bare_lora(tmp_path / "lora", tensors, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match=r"ignore 2 of its factors .*layers\.9.* Export whole weights"):
        check_peft_names(Checkpoint.open(paths["base"]), adapter)


@pytest.mark.parametrize("kind", ["vit", "llava"])
def test_adapters_may_name_modules_as_the_network_or_as_the_files(tmp_path: Path, kind: str) -> None:
    base = Checkpoint.open(write_network(tmp_path, kind, 0)["base"])
    network = hollow(base)
    end = {"vit": "layers.0.attention.v_proj", "llava": "language_model.layers.1.self_attn.v_proj"}[kind]
    new = next(name for name, _ in network.named_modules() if name.endswith(end))
    old = {
        "vit": "vit.encoder.layer.0.attention.attention.value",
        "llava": "language_model.model.layers.1.self_attn.v_proj",
    }[kind]
    shape = base.shape(f"{old}.weight")
    factors = {"lora_A": torch.ones(1, shape[1]), "lora_B": torch.ones(shape[0], 1)}
    for number, module in enumerate((new, old)):
        tensors = {f"{module}.{part}.weight": value.clone() for part, value in factors.items()}
        folded = Adapted(base, bare_lora(tmp_path / str(number), tensors))
        changed = [name for name in base.names if not torch.equal(folded.tensor(name), base.tensor(name))]
        assert changed == [f"{old}.weight"]


def test_a_module_that_transformers_makes_of_several_tensors_is_named_in_both_spellings(tmp_path: Path) -> None:
    base = Checkpoint.open(write_network(tmp_path, "mixtral", 0)["base"])
    fused = {"model.layers.0.mlp.experts.gate_up_proj": torch.ones(2, 48, 16)}
    with pytest.raises(CheckpointError, match=r"becomes .*experts\.gate_up_proj.* unchanged.*save merge_and_unload"):
        Adapted(base, bare_lora(tmp_path / "fused", fused))
    stranger = {"model.layers.0.nowhere": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"no tensor for .*nowhere.*Specify the model that it was trained on"):
        Adapted(base, bare_lora(tmp_path / "stranger", stranger))
