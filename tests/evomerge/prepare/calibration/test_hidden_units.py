from pathlib import Path

import pytest
import torch
import transformers

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.prepare.alignment.repair import Channels
from evomerge.prepare.calibration.data import CollectionError, Text, batches, encode_texts
from evomerge.prepare.calibration.hidden_units import deviations, hidden_layers, observe, repair_blocks
from evomerge.resident.resident import load_resident
from tests.evaluators.tiny_llama import build

GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}


def test_the_network_ends_as_the_tensors_say_and_every_token_is_counted(tmp_path: Path) -> None:
    made = build(tmp_path, 0, transformers.GPT2Config, transformers.GPT2LMHeadModel, **GPT2)
    checkpoint = Checkpoint.open(tmp_path)
    model = load_resident(checkpoint, tmp_path, torch.float32, "cpu")
    examples = encode_texts([Text("", text) for text in ("the quick fox", "2+3=5", "AXIOM")], made.tokenizer, 16)
    data, steps = list(batches(examples, 16)), []
    own = observe(model, checkpoint, data, steps.append)
    tokens = sum(example.length for example in examples)
    assert sum(steps) == tokens
    wanted = {name: Channels(one.mean + 1, one.std * 2) for name, one in own.items()}
    done = repair_blocks(model, checkpoint, wanted, data, steps.append)
    assert sum(steps) == pytest.approx(4 * tokens)
    assert sorted(done.tensors) == [
        f"transformer.h.{i}.mlp.c_fc.{part}" for i in range(3) for part in ("bias", "weight")
    ]
    for name, tensor in done.tensors.items():
        assert torch.equal(model.tensors[name], tensor)
        assert not torch.equal(checkpoint.tensor(name), tensor)
    # Of one network: what was seen block by block is what the whole one computes.
    again = observe(model, checkpoint, data, steps.append)
    assert max(deviations(again, done.after)) < 1e-6
    assert max(deviations(done.before, own)) < 1e-6
    assert max(deviations(done.after, wanted)) < 1e-5
    far = {name: Channels(one.mean - 3, one.std + 2) for name, one in own.items()}
    assert deviations(own, far) == pytest.approx((3, 2))


def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    made = build(tmp_path, 0, transformers.GPT2Config, transformers.GPT2LMHeadModel, **GPT2)
    checkpoint = Checkpoint.open(tmp_path)
    model = load_resident(checkpoint, tmp_path, torch.float32, "cpu")
    ((layer,), *_) = hidden_layers(model, checkpoint)
    model.tensors[layer.name].fill_(torch.inf)
    data = list(batches(encode_texts([Text("", "the quick fox")], made.tokenizer, 16), 16))
    with pytest.raises(CollectionError, match=r"outputs of transformer\.h\.0\.mlp\.c_fc\.weight are not finite"):
        observe(model, checkpoint, data, lambda _: None)
