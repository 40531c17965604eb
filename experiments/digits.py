"""`python -m experiments.digits`: a small vision transformer, eight experts on handwritten digits, and tasks.

The digits are scikit-learn's (8 x 8 pixels), in eight domains: as they are, turned, mirrored, with other colors and
with other places of the pixels. Each expert is trained on one domain, each task counts right digits of one.
"""

import argparse
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from evaluators._losses import mixed
from evaluators.base import NO_REFERENCES, Evaluator, FloatArray, Scores, content_ids

SIDE, DARKEST, N_DIGITS = 8, 16.0, 10
#: Images that tasks are made of; the models are trained on the others.
N_EVALUATION = 250
BATCH = 128
# Found by trial: the base knows a little of every domain, an expert forgets most of what the others know.
BASE_STEPS, BASE_RATE = 480, 2e-3
EXPERT_STEPS, EXPERT_RATE = 100, 1e-3

_PLACES = np.random.Generator(np.random.Philox(7)).permutation(SIDE * SIDE)
DOMAINS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "plain": lambda images: images,
    "turned_left": lambda images: np.rot90(images, 1, axes=(1, 2)),
    "turned_right": lambda images: np.rot90(images, 3, axes=(1, 2)),
    "upside_down": lambda images: images[:, ::-1],
    "mirrored": lambda images: images[:, :, ::-1],
    "inverted": lambda images: 1.0 - images,
    "permuted": lambda images: images.reshape(-1, SIDE * SIDE)[:, _PLACES].reshape(images.shape),
    "rolled": lambda images: np.roll(images, (3, 4), axis=(1, 2)),
}


class DigitsDomain(Evaluator):
    """1 if the most likely class is the digit, else 0.

    Args:
        domain: Key of DOMAINS.
    """

    #: It feeds images to the network and needs no tokenizer.
    needs_language_model = False

    def __init__(self, *, domain: str) -> None:
        images, self._digits = _evaluation(domain)
        self._pixels = as_pixels(images)
        self._ids = content_ids([f"{domain} {row}" for row in range(len(self._digits))])

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per image."""
        return self._ids

    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        """Classify the images."""
        rows = self.rows(ids)
        likely = model.network(pixel_values=self._pixels[rows]).logits.argmax(1)
        right = (likely == self._digits[rows]).numpy().astype(np.float64)
        return Scores(tuple(self._ids[row] for row in rows), right)

    def why_no_loss(self) -> str | None:
        """Return None: every image has a loss."""
        return None

    def loss(self, model: Any, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES) -> Tensor:
        """Return the loss of each image from the likelihood of its digit."""
        rows = self.loss_rows(ids, references)
        likelihoods = model.network(pixel_values=self._pixels[rows]).logits.log_softmax(1)
        return mixed(likelihoods[torch.arange(len(rows)), self._digits[rows]])


def as_pixels(images: FloatArray) -> Tensor:
    """Return images as a network takes them, (n_images, 1, SIDE, SIDE)."""
    return torch.tensor(np.ascontiguousarray(images[:, None]), dtype=torch.float32)


def make(folder: Path, say: Callable[[str], None]) -> None:
    """Train base and experts into a folder each, those that are not there yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = ViTForImageClassification(configuration())
    base = _there(folder / "base") or _trained(base, list(DOMAINS), BASE_STEPS, BASE_RATE, seed=1)
    base.save_pretrained(folder / "base")
    say(f"base: {_scores(base)}")
    for name in DOMAINS:
        expert = _there(folder / name) or _trained(copy.deepcopy(base), [name], EXPERT_STEPS, EXPERT_RATE, seed=2)
        expert.save_pretrained(folder / name)
        say(f"{name}: {_scores(expert)}")


def configuration() -> ViTConfig:
    """Return the shape of the network: 120 coefficients for eight experts by blocks, 576 by tensors."""
    return ViTConfig(
        image_size=SIDE,
        patch_size=4,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=N_DIGITS,
    )


@cache
def _digits() -> tuple[FloatArray, Tensor]:
    """Return all images, (n_images, SIDE, SIDE) from 0 to 1, and their digits, in an order of our own."""
    found = load_digits()
    order = np.random.Generator(np.random.Philox(3)).permutation(len(found.target))
    return found.images[order] / DARKEST, torch.tensor(found.target[order])


def _evaluation(domain: str) -> tuple[FloatArray, Tensor]:
    images, digits = _digits()
    return DOMAINS[domain](images[:N_EVALUATION]), digits[:N_EVALUATION]


def _trained(network: nn.Module, domains: Sequence[str], steps: int, rate: float, seed: int) -> nn.Module:
    """Train a network in place on the domains in equal shares: AdamW, rate falling as a cosine."""
    images, digits = (part[N_EVALUATION:] for part in _digits())
    pixels = [as_pixels(DOMAINS[name](images)) for name in domains]
    rng = np.random.Generator(np.random.Philox(seed))
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows, of_domain = rng.integers(len(digits), size=BATCH), rng.integers(len(domains), size=BATCH)
        batch = torch.stack([pixels[k][row] for k, row in zip(of_domain, rows, strict=True)])
        loss = nn.functional.cross_entropy(network(pixel_values=batch).logits, digits[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return network.eval()


def _there(folder: Path) -> Any:
    return ViTForImageClassification.from_pretrained(folder).eval() if (folder / "config.json").is_file() else None


@torch.inference_mode()
def _scores(network: nn.Module) -> str:
    found = []
    for name in DOMAINS:
        images, digits = _evaluation(name)
        right = network(pixel_values=as_pixels(images)).logits.argmax(1) == digits
        found.append(float(right.float().mean()))
    return f"{np.mean(found):.3f} ({', '.join(f'{score:.2f}' for score in found)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/digits"))
    torch.set_num_threads(1)
    make(parser.parse_args().out, print)


if __name__ == "__main__":
    main()
