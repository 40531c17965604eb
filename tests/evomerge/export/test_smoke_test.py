"""After an export: networks of every kind are run once, on inputs that fit them."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from evomerge.export.smoke_test import smoke_test
from evomerge.resident.resident import ModelError
from tests.evomerge.networks import KINDS, write_network

#: transformers renames or fuses their tensors on loading.
CONVERTED = ("llava", "mixtral", "vit")


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(CONVERTED)))
def test_every_kind_of_network_is_run_once(tmp_path: Path, kind: str) -> None:
    base = write_network(tmp_path, kind, 0)["base"]
    assert smoke_test(base) is None
    tensors = load_file(base / "model.safetensors")
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.fill_(torch.inf)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="non-finite"):
        smoke_test(base)


@pytest.mark.parametrize("settings", [{"vocab_size": 5, "eos_token_id": 4}, {"max_position_embeddings": 4}])
def test_probes_fit_small_vocabularies_and_contexts(tmp_path: Path, settings: dict[str, int]) -> None:
    assert smoke_test(write_network(tmp_path, "bert_mlm", 0, **settings)["base"]) is None


def test_what_could_not_be_run_is_said(tmp_path: Path) -> None:
    config = transformers.PatchTSTConfig(num_input_channels=2, context_length=8, patch_length=2, d_model=8)
    transformers.PatchTSTForPretraining(config).save_pretrained(tmp_path)
    said = smoke_test(tmp_path)
    assert said is not None
    assert "PatchTSTForPretraining was loaded, but not run (on past_values, " in said
