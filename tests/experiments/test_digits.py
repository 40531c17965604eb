"""The digits' domains, and the evaluator that an experiment brings along."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from experiments.digits import DOMAINS, N_DIGITS, SIDE, DigitsDomain, configuration


@pytest.fixture(scope="module")
def model() -> SimpleNamespace:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SimpleNamespace(network=ViTForImageClassification(configuration()).eval())


def test_domains_differ_and_keep_every_pixel() -> None:
    images = np.random.default_rng(0).random((2, SIDE, SIDE))
    seen = {name: change(images) for name, change in DOMAINS.items()}
    assert len({found.tobytes() for found in seen.values()}) == len(DOMAINS) == 8
    for name, found in seen.items():
        values = 1 - found if name == "inverted" else found
        np.testing.assert_allclose(np.sort(values.reshape(2, -1)), np.sort(images.reshape(2, -1)))


def test_the_loss_and_the_score_follow_from_the_likelihood_of_the_digit(model: SimpleNamespace) -> None:
    task = DigitsDomain(domain="mirrored")
    chosen = task.example_ids[5:25]
    losses = task.loss(model, chosen)
    assert losses.requires_grad
    # p from the loss (1 - p) / 2 - log(p) / 2, which falls in p: above a half the digit is the most likely one.
    scores = task.score(model, chosen)
    assert scores.example_ids == chosen
    certain = losses.detach().numpy() < 0.25 + 0.5 * np.log(2)
    assert set(scores.values[certain]) <= {1.0}
    hopeless = losses.detach().numpy() > (1 - 1 / N_DIGITS) / 2 + np.log(N_DIGITS) / 2
    assert set(scores.values[hopeless]) == {0.0}
