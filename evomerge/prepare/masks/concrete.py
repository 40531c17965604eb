"""Concrete mask: one mask for all deltas, against interference (Tang et al., 2023). https://arxiv.org/abs/2312.06173.

Notation: t_k the deltas, x a logit per element, u uniform noise, T a temperature,
m = s((x + log u - log(1 - u)) / T) a relaxed Bernoulli variable (s the logistic function), n = m / mean(m) per tensor,
L the loss of base + weight * sum_k n t_k. Adam descends L by x, with new noise at every step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.prepare.calibration.data import CollectionError
from evomerge.prepare.masks.network import Change, Slope


@dataclass(frozen=True)
class ConcreteSettings:
    """The paper's settings. weight: of every delta. seed: of the noise."""

    weight: float = 0.3
    steps: int = 2000
    learning_rate: float = 1e-3
    temperature: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not min(self.weight, self.learning_rate, self.temperature) > 0.0:
            raise CollectionError(
                f"The steps are {self.steps}, the weight {self.weight:g}, the learning rate {self.learning_rate:g} and "
                f"the temperature {self.temperature:g}; expected at least 1 step, and the others above 0."
            )


@dataclass(frozen=True, eq=False)
class Concrete:
    """masks: tensor's name -> factors of mean 1. losses: of every step, on its examples."""

    masks: dict[str, Tensor]
    losses: tuple[float, ...]


def learn_concrete(total: Change, slope: Callable[[int, Change], Slope], settings: ConcreteSettings) -> Concrete:
    """Learn one mask for several deltas.

    The mask that is returned has the probabilities s(x) in place of a draw, so that it can be computed again; the
    authors draw one.

    Args:
        total: The sum of the deltas.
        slope: (Step from 0 on, change of the base) -> loss and its gradient.
        settings: Weight, steps, rate, temperature and seed.

    Raises:
        CollectionError: A loss is not finite.
    """
    logits = {name: torch.zeros_like(delta, requires_grad=True) for name, delta in total.items()}
    optimizer = torch.optim.Adam(list(logits.values()), lr=settings.learning_rate)
    losses = []
    for step in range(settings.steps):
        # One stream per step, in the order of the tensors: no dependence on what was drawn before.
        noise = np.random.Generator(np.random.Philox(key=[settings.seed, step]))
        masks = {name: relaxed(x, _logistic(x, noise), settings.temperature) for name, x in logits.items()}
        change = {name: settings.weight * mask.detach() * total[name] for name, mask in masks.items()}
        found = slope(step, change)
        if not np.isfinite(found.loss):
            raise CollectionError(
                f"The loss is {found.loss} in step {step + 1}: do the models compute finite numbers on these data? A "
                "smaller --weight may help."
            )
        optimizer.zero_grad()
        for name, mask in masks.items():
            mask.backward(settings.weight * total[name] * found.gradients[name])  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(found.loss)
    with torch.no_grad():
        final = {name: expected(x) for name, x in logits.items()}
    return Concrete(final, tuple(losses))


def relaxed(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Return a relaxed Bernoulli mask divided by its mean over the tensor. noise: logistic, of the logits' shape."""
    mask = ((logits + noise) / temperature).sigmoid()
    return mask / mask.mean()


def expected(logits: Tensor) -> Tensor:
    """Return the probabilities that elements are kept, divided by their mean over the tensor."""
    mask = logits.sigmoid()
    return mask / mask.mean()


def _logistic(like: Tensor, generator: np.random.Generator) -> Tensor:
    drawn = generator.random(like.numel(), dtype=np.float32).clip(1e-7, 1.0 - 1e-7)
    return torch.from_numpy(np.log(drawn) - np.log1p(-drawn)).reshape(like.shape).to(like.device)
