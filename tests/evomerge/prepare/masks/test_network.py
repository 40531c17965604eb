"""A network as base plus change: its losses and gradients on a tiny trained model."""

import numpy as np
import pytest
import torch
import transformers

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.prepare.calibration.data import Example, encode_texts, read_texts
from evomerge.prepare.label_losses import entropies, label_losses
from evomerge.prepare.masks.network import ChangedNetwork, count
from evomerge.resident.resident import load_resident
from tests.conftest import TinyModels


@pytest.fixture(scope="module")
def parts(tiny: TinyModels) -> tuple[ChangedNetwork, dict[str, torch.Tensor], list[Example]]:
    base, expert = (Checkpoint.open(folder) for folder in (tiny.base, tiny.experts["sort"]))
    resident = load_resident(base, base.path, torch.float32, "cpu")
    network = ChangedNetwork(resident, base, label_losses, 64, lambda _: None)
    examples = encode_texts(read_texts(tiny.tasks["sort"]), resident.tokenizer, 512, 6)
    return network, network.delta(expert), examples


Parts = tuple[ChangedNetwork, dict[str, torch.Tensor], list[Example]]


def test_base_plus_delta_is_the_expert(tiny: TinyModels, parts: Parts) -> None:
    network, delta, examples = parts
    expert = transformers.AutoModelForCausalLM.from_pretrained(tiny.experts["sort"], dtype=torch.float32)
    for loss, value in zip(network.losses(delta, examples), examples, strict=True):
        tokens = torch.tensor([value.tokens])
        labels = tokens.clone()
        labels[:, : value.first] = -100
        with torch.no_grad():
            assert loss == pytest.approx(float(expert(input_ids=tokens, labels=labels).loss), rel=1e-4)
        with torch.no_grad():
            logs = expert(tokens).logits[0, value.first - 1 : -1].log_softmax(-1)
            wanted = float(-(logs.exp() * logs).sum(-1).mean())
            assert float(entropies(expert, [value])[0]) == pytest.approx(wanted, rel=1e-4)


def test_the_gradient_is_the_derivative_of_the_mean_loss(parts: Parts) -> None:
    network, delta, examples = parts
    change = {name: 0.5 * values for name, values in delta.items()}
    slope = network.slope(change, examples)
    assert slope.loss == pytest.approx(network.losses(change, examples).mean(), rel=1e-5)
    along = sum(float((slope.gradients[name] * values).sum()) for name, values in delta.items())
    step = 1e-2
    ends = [
        network.losses({n: (0.5 + sign * step) * v for n, v in delta.items()}, examples).mean() for sign in (-1.0, 1.0)
    ]
    assert along == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=0.02)


def test_what_is_counted() -> None:
    assert count([torch.tensor([True, False]), torch.tensor([0.5, 0.0, 2.0])]) == (3, 5)
    assert np.isfinite(count([])[0])
