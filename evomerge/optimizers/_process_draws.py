"""Draws from a Gaussian process's posterior, as functions: pathwise conditioning (Wilson et al., 2020).
https://arxiv.org/abs/2002.09309

A draw is f(x) = offset + p(x) + k(x, X) K^-1 (y - offset - p(X) - e); p is drawn from the prior, e from the noise, and
K is the covariance of the responses y at X. p is a constant plus random Fourier features of the Matern 5/2 covariance:
their frequencies have a Student t distribution with 5 degrees of freedom, divided by the length scales.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve

from evomerge.optimizers._process import Process
from evomerge.optimizers.base import FloatArray

_ROOT5 = 5.0**0.5
#: Random features of the prior.
_FEATURES = 128
#: Steps of a descent, the largest change of a coordinate in the first one and in each of the others.
_STEPS, _FIRST, _LARGEST = 8, 0.05, 0.3


@dataclass(frozen=True, eq=False)
class Features:
    """Features `scale` cos(frequencies x + phases) of a Matern covariance; frequencies: (n_features, dimension)."""

    frequencies: FloatArray
    phases: FloatArray
    scale: float

    @classmethod
    def of(cls, process: Process, rng: np.random.Generator) -> "Features":
        """Draw the features."""
        kernel = process.kernel
        spread = np.sqrt(5.0 / rng.chisquare(5.0, _FEATURES))[:, None]
        frequencies = spread * rng.standard_normal((_FEATURES, len(kernel.lengths))) / kernel.lengths
        phases = rng.uniform(0.0, 2.0 * np.pi, _FEATURES)
        return cls(frequencies, phases, float(np.sqrt(2.0 * kernel.amplitude / _FEATURES)))

    def angles(self, points: FloatArray) -> FloatArray:
        """Return the arguments of the cosines at points, (n_points, n_features)."""
        return np.asarray(points @ self.frequencies.T + self.phases)


@dataclass(frozen=True, eq=False)
class Draws:
    """Functions drawn from a posterior: weights of features (n_draws, n_features) and data (n_draws, n_data)."""

    process: Process
    features: Features
    feature_weights: FloatArray
    data_weights: FloatArray

    @classmethod
    def of(cls, process: Process, features: Features, rngs: list[np.random.Generator], spread: float) -> "Draws":
        """Draw one function per generator, at `spread` times its distance from the posterior mean."""
        priors = np.array([rng.standard_normal(_FEATURES) for rng in rngs])
        noise = np.array([rng.standard_normal(len(process.x)) for rng in rngs]) * np.sqrt(process.noise)
        constant = np.array([rng.standard_normal() for rng in rngs]) * np.sqrt(process.kernel.constant)
        at_data = priors @ (features.scale * np.cos(features.angles(process.x))).T + noise + constant[:, None]
        unexplained = process.responses - process.offset - spread * at_data
        return cls(process, features, spread * priors, cho_solve((process.factor, True), unexplained.T).T)

    def values(self, points: FloatArray) -> FloatArray:
        """Return each draw at all points, up to a constant of the draw, (n_draws, n_points)."""
        prior = self.feature_weights @ (self.features.scale * np.cos(self.features.angles(points))).T
        return np.asarray(prior + self.data_weights @ self.process.kernel(self.process.x, points))

    def values_and_gradients(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the value of each draw at its own point and the gradient there; points: (n_draws, dimension)."""
        kernel, angles = self.process.kernel, self.features.angles(points)
        value = self.features.scale * np.sum(np.cos(angles) * self.feature_weights, axis=1)
        gradient = -self.features.scale * ((np.sin(angles) * self.feature_weights) @ self.features.frequencies)
        a, b = points / kernel.lengths, self.process.x / kernel.lengths
        squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T
        r = _ROOT5 * np.sqrt(np.maximum(squares, 0.0))
        decay = kernel.amplitude * np.exp(-r) * self.data_weights
        value += np.sum((1.0 + r + r * r / 3.0) * decay + kernel.constant * self.data_weights, axis=1)
        pull = 5.0 / 3.0 * (1.0 + r) * decay
        return value, gradient - (a * pull.sum(axis=1)[:, None] - pull @ b) / kernel.lengths

    def descended(self, points: FloatArray) -> FloatArray:
        """Return the lowest points that a short descent of each draw finds from its own, (n_draws, dimension).

        Projected gradients with the steps of Barzilai and Borwein (https://doi.org/10.1093/imanum/8.1.141). A short
        descent stays near the data: far from them, every draw has deep minima.
        """
        values, gradients = self.values_and_gradients(points)
        best, lowest = points.copy(), values.copy()
        steps = _FIRST / np.maximum(np.abs(gradients).max(axis=1), 1e-300)
        for _ in range(_STEPS):
            moved = np.clip(points - steps[:, None] * gradients, 0.0, 1.0)
            values, after = self.values_and_gradients(moved)
            change, turn = moved - points, after - gradients
            curved = np.sum(change * turn, axis=1)
            newton = np.sum(change**2, axis=1) / np.where(curved > 0.0, curved, 1.0)
            steps = np.where(curved > 0.0, newton, 2.0 * steps)
            steps = np.minimum(steps, _LARGEST / np.maximum(np.abs(after).max(axis=1), 1e-300))
            points, gradients = moved, after
            better = values < lowest
            best[better], lowest[better] = points[better], values[better]
        return best
