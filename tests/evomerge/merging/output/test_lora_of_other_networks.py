"""LoRAs of networks with several stacks, tied matrices or renamed tensors: what PEFT makes of them, or a refusal."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.output.lora_export import export_lora
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.evomerge.networks import write_network


def merge(paths: dict[str, Path]) -> Merge:
    """The merge that is the expert."""
    recipe = Recipe(Input("base", str(paths["base"])), (Input("a", str(paths["a"])),), "linear")
    names = Checkpoint.open(paths["base"]).layout().names
    return Merge(recipe, CoefficientTable({"all": names}, {"weight": np.ones((1, 1))}))


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("t5", "T5ForConditionalGeneration"), ("llava", "LlavaForConditionalGeneration"), ("gpt2", "GPT2LMHeadModel")],
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
    assert len(changed) == len(report.layers) > 7
    assert not any("relative_attention_bias" in name for name in report.layers), "an embedding has no such factors"


def test_names_that_peft_would_pass_over_are_refused(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "vit", 1)
    with pytest.raises(CheckpointError, match=r"leave out 12 of its factors .* Export whole weights"):
        export_lora(merge(paths), tmp_path / "lora", 8)
    assert not (tmp_path / "lora").exists()
