"""Hypervolume of a measured front, corrected for the sampling error of its points.

A measured front is optimistic: its points are there partly because of favorable sampling errors, and resampling the
examples adds further errors. Two corrections are used, each reliable where the other is not; the interval covers both:
* the basic bootstrap: the measured volume minus the bias added by resampling; reliable for few points far apart;
* posterior fronts: true points are normal about a common mean, with a covariance estimated from the measured ones;
  reliable for many points with errors as large as their gaps. Posterior draws reuse the bootstrap's errors (Matheron's
  rule). https://doi.org/10.1198/jasa.2011.tm11181
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.statistics import pareto
from evomerge.statistics.clusters import Clusters
from evomerge.statistics.intervals import FloatArray
from evomerge.statistics.matrices import noise, samples


@dataclass(frozen=True)
class Interval:
    """value: as measured. low, high: 95 % interval of the true value, which may lie below an optimistic value."""

    value: float
    low: float
    high: float


def hypervolume_interval(
    values: Mapping[str, FloatArray],
    means: FloatArray,
    reference: FloatArray,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Interval:
    """Estimate the hypervolume of the candidates' front with its 95 % interval.

    values: task -> (n_candidates, n_examples). means: theirs from `bootstrap_means`. In both larger is better, in the
    units of `reference`, (n_tasks,): the losses that bound the volume. Candidates must not have been selected on
    these values: pass all of them, or a set selected on other examples. If many are exactly equal, the interval
    is still too high in one study of five.
    """
    found = samples(values, clusters)
    measured = np.stack([examples.mean for examples in found.values()], axis=1)  # (n_candidates, n_tasks)
    errors = means - measured
    variances = np.diag([noise(examples) for examples in found.values()])
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, len(found)))))
    volume = pareto.hypervolume(-measured, reference)
    basic = 2 * volume - _volumes(means, reference)
    drawn = _volumes(_true_points(measured, errors, variances, rng), reference) if _scatter_is_known(errors) else basic
    lows, highs = np.quantile([basic, drawn], (0.025, 0.975), axis=1)
    return Interval(volume, max(0.0, float(lows.min())), float(highs.max()))


def _volumes(points: FloatArray, reference: FloatArray) -> FloatArray:
    return np.array([pareto.hypervolume(-resample, reference) for resample in points])


def _scatter_is_known(errors: FloatArray) -> bool:
    """Return whether there are enough candidates to estimate their covariance."""
    _, n_candidates, n_tasks = errors.shape
    return bool(n_candidates > n_tasks + 2)


def _true_points(measured: FloatArray, errors: FloatArray, noise: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draw the true points, (n_resamples, n_candidates, n_tasks), given the measured ones."""
    n_resamples, n_candidates, _ = errors.shape
    shared = errors.mean(axis=1, keepdims=True)
    centre = measured.mean(axis=0)
    spread = _spreads(np.atleast_2d(np.cov(measured.T)), noise, n_candidates - 1, n_resamples, rng)
    believed = np.swapaxes(np.linalg.solve(spread + noise + _tiny(noise), spread), 1, 2)  # spread (spread + noise)^-1
    prior = rng.standard_normal(errors.shape) @ _root(spread)
    prior -= prior.mean(axis=1, keepdims=True)
    own = measured - centre - (errors - shared)
    points: FloatArray = centre - shared + prior + np.einsum("rij,rkj->rki", believed, own - prior)
    return points


def _spreads(
    covariance: FloatArray, noise: FloatArray, degrees: int, n_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Draw the true points' covariance: the measured one, known up to a Wishart factor, minus the noise."""
    n_tasks = len(covariance)
    normal = rng.standard_normal((n_resamples, degrees, n_tasks))
    factor = np.swapaxes(normal, 1, 2) @ normal / degrees
    root = _root(covariance)
    values, vectors = np.linalg.eigh(root @ np.linalg.solve(factor, root[None]) - noise)
    spreads: FloatArray = (vectors * np.maximum(values, 0)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return spreads


def _root(matrices: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(matrices)
    root: FloatArray = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return root


def _tiny(noise: FloatArray) -> FloatArray:
    """Return a regularizer for tasks without noise or spread."""
    tiny: FloatArray = 1e-12 * max(1e-12, float(np.trace(noise))) * np.eye(len(noise))
    return tiny
