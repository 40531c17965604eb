"""Grafting: the few elements of a delta that hold its skill (Panigrahi et al., 2023). https://arxiv.org/abs/2302.06600.

Notation: t a delta, b in {0, 1} the mask of its largest elements, S a logit per element, s(S) its logistic function,
m = b + (1 - 2 b) s(S) the relaxed mask, L the loss of base + m t on labeled data. S begins so low that m is nearly b;
gradient descent raises it where the other choice lowers L. The mask is m, rounded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.prepare.calibration.data import CollectionError
from evomerge.prepare.masks.network import Change, Slope

#: First logit of every element: the mean of the uniform ones from -10 to -9 in the authors' code.
_LOGIT = -9.5


@dataclass(frozen=True)
class GraftSettings:
    """density: share of the elements in the mask of the largest ones. steps: of gradient descent, on all examples.

    learning_rate: None for one by which about as many elements are exchanged as the first mask has. It is large, since
    the logistic function is nearly flat at first: 1e7 in the authors' code, which suits the gradients of their models.
    """

    density: float = 0.01
    steps: int = 10
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        given = 1.0 if self.learning_rate is None else self.learning_rate
        if not 0.0 < self.density <= 1.0 or self.steps < 0 or not 0.0 < given < float("inf"):
            rate = "" if self.learning_rate is None else f" and the learning rate {self.learning_rate:g}"
            raise CollectionError(
                f"The density is {self.density:g}, the steps are {self.steps}{rate}; expected a share in (0, 1], at "
                "least 0 steps, and a finite rate above 0."
            )


@dataclass(frozen=True, eq=False)
class Grafted:
    """masks: tensor's name -> bool. losses: on held-out data of the rounded mask, before the first step and after each.

    best: the number of steps after which the mask is the returned one.
    """

    masks: dict[str, Tensor]
    losses: tuple[float, ...]
    best: int


def largest(deltas: Change, density: float) -> dict[str, Tensor]:
    """Return masks of the elements of largest magnitude over all tensors, a share `density`, at least one.

    Elements of equal magnitude at the end are all in or all out; zeros are out.
    """
    values = torch.cat([delta.abs().reshape(-1) for delta in deltas.values()])
    kept = max(1, round(density * len(values)))
    threshold = values.kthvalue(len(values) - kept + 1).values
    return {name: (delta.abs() >= threshold) & (delta != 0) for name, delta in deltas.items()}


def learn_graft(
    deltas: Change, slope: Callable[[Change], Slope], held_out: Callable[[Change], float], settings: GraftSettings
) -> Grafted:
    """Learn which elements of a delta to keep.

    Args:
        deltas: The delta.
        slope: Change of the base -> training loss and its gradient.
        held_out: Change of the base -> loss by which the best step is chosen; of equal losses the first.
        settings: Density, steps and rate.

    Raises:
        CollectionError: A loss or a gradient is not finite.
    """
    start = largest(deltas, settings.density)
    logits = {name: torch.full_like(delta, _LOGIT) for name, delta in deltas.items()}
    masks = best = start
    losses = [held_out(_within(deltas, masks))]
    chosen, rate = 0, settings.learning_rate
    for step in range(1, settings.steps + 1):
        found = slope({name: _relaxed(start[name], logits[name]) * delta for name, delta in deltas.items()})
        _check(found)
        # How much the loss falls if an element's choice changes, to first order.
        gains = {n: torch.where(start[n], 1.0, -1.0) * found.gradients[n] * delta for n, delta in deltas.items()}
        rate = rate if rate is not None else _rate(gains, settings)
        for name, gain in gains.items():
            logits[name] += rate * gain * _flat(logits[name])
        masks = {name: _relaxed(start[name], logits[name]) > 0.5 for name in deltas}
        losses.append(held_out(_within(deltas, masks)))
        if losses[-1] < losses[chosen]:
            best, chosen = masks, step
    return Grafted(dict(best), tuple(losses), chosen)


def _rate(gains: Change, settings: GraftSettings) -> float:
    """Return the rate by which a share `density` of the elements would be exchanged, if their gains stayed the same."""
    values = torch.cat([gain.reshape(-1) for gain in gains.values()])
    count = max(1, round(settings.density * len(values)))
    least = float(values.kthvalue(len(values) - count + 1).values)
    if least <= 0.0:  # fewer elements than these lower the loss
        least = float(values.max())
    slope = float(_flat(torch.tensor(_LOGIT, dtype=torch.float64)))
    return -_LOGIT / (settings.steps * least * slope) if least > 0.0 else 1.0


def _flat(logits: Tensor) -> Tensor:
    """Return the derivative of the logistic function."""
    risen = logits.sigmoid()
    return risen * (1.0 - risen)


def _relaxed(start: Tensor, logits: Tensor) -> Tensor:
    return torch.where(start, 1.0 - logits.sigmoid(), logits.sigmoid())


def _within(deltas: Change, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: delta * masks[name] for name, delta in deltas.items()}


def _check(found: Slope) -> None:
    wrong = next((name for name, gradient in found.gradients.items() if not torch.isfinite(gradient).all()), None)
    if wrong is not None or not torch.isfinite(torch.tensor(found.loss)):
        raise CollectionError(
            f"The loss is {found.loss} or its gradient{f' by {wrong}' if wrong else ''} is not finite: do the models "
            "compute finite numbers on these data?"
        )
