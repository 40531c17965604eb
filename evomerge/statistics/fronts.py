"""The hypervolume of a measured front, with the luck of its points taken out.

A measured front is too good: its points are there partly because their errors were lucky, and resampling examples adds
a second portion of luck to the first. Two ways out, each good where the other is not; the interval holds both theirs:
* the basic bootstrap: the measured volume less what the second portion adds; good for few points far apart;
* fronts that the measured points may have come from, true points being normal about a common mean, with a covariance
  known as far as the measured ones tell it; good for many points with errors as large as their gaps. Draws from this
  posterior are made of the bootstrap's errors (Matheron's rule). https://doi.org/10.1198/jasa.2011.tm11181
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
    """value: as measured. low, high: the 95 % interval of the truth, which may lie wholly below an optimistic value."""

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
    """Hypervolume of the candidates' front with its 95 % interval.

    values: task -> (n_candidates, n_examples). means: theirs from `bootstrap_means`. Both larger is better, in the
    units of `reference`, (n_tasks,): the losses up to which volume counts. Candidates must not have been picked by
    these values: give all of them, or a set chosen on other examples. Where many are exactly equal, the interval
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
    """Whether there are enough candidates to learn from how they scatter."""
    _, n_candidates, n_tasks = errors.shape
    return bool(n_candidates > n_tasks + 2)


def _true_points(measured: FloatArray, errors: FloatArray, noise: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draws of the true points (n_resamples, n_candidates, n_tasks) given the measured ones."""
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
    """Draws of the true points' covariance: the measured one, known up to a Wishart factor, less the noise."""
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
    """What keeps a task without noise or spread invertible."""
    tiny: FloatArray = 1e-12 * max(1e-12, float(np.trace(noise))) * np.eye(len(noise))
    return tiny
