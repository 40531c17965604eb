"""Links: the scale on which a loss is modeled, and the sampling error of its mean over examples on that scale.

Notation: a *latent* is a loss on the scale where it is smooth and unbounded; a surrogate predicts latents.
Rates (accuracy) use the logit, positive losses (perplexity, seconds) may use the log, all others the identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import expit, logit

from evomerge.optimizers.base import FloatArray, Observation

#: Bound on the latents of rates; beyond it, a rate is 0 or 1 for any number of examples.
_FAR = 15.0
#: Bound on the logarithm of positive losses, so that squared losses stay finite.
_HUGE = 300.0


class Link(Protocol):
    """A monotone map between latents and losses, with the working data of a weighted least-squares step."""

    def losses(self, latents: FloatArray) -> FloatArray:
        """Map latents to losses, any shape."""
        ...

    def slopes(self, latents: FloatArray) -> FloatArray:
        """Return the derivative of `losses`, any shape."""
        ...

    def working(self, data: "Data", latents: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return responses and their variances, (n_points,), for one least-squares step from the fitted `latents`."""
        ...


@dataclass(frozen=True, eq=False)
class Data:
    """Measurements of one objective: points x (n_points, dimension) and losses, latents and noise, (n_points,).

    noise: variance of each latent under resampling of its examples. All points share their examples, so it is an upper
    bound on the noise between neighbors. counts: number of examples of each point.
    """

    link: Link
    x: FloatArray
    losses: FloatArray
    latents: FloatArray
    noise: FloatArray
    counts: FloatArray

    @property
    def spread(self) -> float:
        """Return the standard deviation of the latents, never 0."""
        return max(float(self.latents.std()), 1e-6)

    @property
    def loss_noise(self) -> FloatArray:
        """Return an upper bound on the standard error of each loss over its examples, (n_points,)."""
        return np.asarray(np.abs(self.link.slopes(self.latents)) * np.sqrt(self.noise))


@dataclass(frozen=True)
class Rate:
    """loss = sign * expit(latent): a proportion of examples; sign is -1 where a larger proportion is better."""

    sign: float

    def losses(self, latents: FloatArray) -> FloatArray:
        """Map latents to losses, any shape."""
        return np.asarray(self.sign * expit(latents))

    def slopes(self, latents: FloatArray) -> FloatArray:
        """Return the derivative of `losses`, any shape."""
        shares = expit(latents)
        return np.asarray(self.sign * shares * (1.0 - shares))

    def working(self, data: Data, latents: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the binomial step of iteratively reweighted least squares (McCullagh and Nelder, 1989, sec. 2.5)."""
        latents = np.clip(latents, -_FAR, _FAR)
        shares = expit(latents)
        variance = shares * (1.0 - shares)
        return latents + (self.sign * data.losses - shares) / variance, 1.0 / (data.counts * variance)


@dataclass(frozen=True)
class Positive:
    """loss = sign * exp(latent)."""

    sign: float

    def losses(self, latents: FloatArray) -> FloatArray:
        """Map latents to losses, any shape."""
        return np.asarray(self.sign * np.exp(np.clip(latents, -_HUGE, _HUGE)))

    def slopes(self, latents: FloatArray) -> FloatArray:
        """Return the derivative of `losses`, any shape."""
        return self.losses(latents)

    def working(self, data: Data, latents: FloatArray) -> tuple[FloatArray, FloatArray]:  # noqa: ARG002 - one step
        """Return the data unchanged: least squares is exact in one step."""
        return data.latents, data.noise


@dataclass(frozen=True)
class Plain:
    """loss = latent."""

    def losses(self, latents: FloatArray) -> FloatArray:
        """Map latents to losses, any shape."""
        return latents

    def slopes(self, latents: FloatArray) -> FloatArray:
        """Return the derivative of `losses`, any shape."""
        return np.ones_like(latents)

    def working(self, data: Data, latents: FloatArray) -> tuple[FloatArray, FloatArray]:  # noqa: ARG002 - one step
        """Return the data unchanged: least squares is exact in one step."""
        return data.latents, data.noise


def read(observations: Sequence[Observation], objective: int) -> tuple[Data, ...]:
    """Return the measurements of one objective, once per suitable link, without failed trials."""
    told = [(seen, seen.losses) for seen in observations if seen.losses is not None]
    x = np.array([seen.x for seen, _ in told])
    losses = np.array([values[objective] for _, values in told])
    examples = [_examples(seen, objective, len(values)) for seen, values in told]
    counts = np.array([len(values) for values in examples], dtype=np.float64)
    known = bool(counts.min() > 1.0)
    sign = _sign([*examples, losses])
    if known and sign is not None:
        shares = (sign * losses * counts + 0.5) / (counts + 1.0)  # never 0 or 1
        noise = 1.0 / (counts * shares * (1.0 - shares))
        return (Data(Rate(sign), x, losses, logit(shares), noise, counts),)
    variance = np.array([values.var(ddof=1) / len(values) for values in examples]) if known else None
    links: list[tuple[Link, FloatArray]] = [(Plain(), losses)]
    if np.all(losses > 0) or np.all(losses < 0):
        links.append((Positive(float(np.sign(losses[0]))), np.log(np.abs(losses))))
    return tuple(Data(link, x, losses, z, _noise(link, z, variance), counts) for link, z in links)


def _examples(seen: Observation, objective: int, n_objectives: int) -> FloatArray:
    # A loss that combines several tasks is treated as a mean over the examples of all of them.
    if len(seen.examples) == n_objectives:
        return seen.examples[objective]
    return np.concatenate(seen.examples) if seen.examples and n_objectives == 1 else np.empty(0)


def _sign(groups: Sequence[FloatArray]) -> float | None:
    """Return -1 if all values lie in [-1, 0], 1 if they lie in [0, 1], else None."""
    low = min(float(values.min(initial=0.0)) for values in groups)
    high = max(float(values.max(initial=0.0)) for values in groups)
    if low >= -1.0 and high <= 0.0:
        return -1.0
    return 1.0 if low >= 0.0 and high <= 1.0 else None


def _noise(link: Link, latents: FloatArray, variance: FloatArray | None) -> FloatArray:
    """Return variances of latents (delta method); if unknown, all variation counts as potential noise."""
    most = max(float(latents.var()), 1e-12)
    if variance is None:
        return np.full(len(latents), most)
    return np.clip(variance / np.maximum(link.slopes(latents) ** 2, 1e-300), 1e-6 * most, most)
