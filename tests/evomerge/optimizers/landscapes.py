"""Accuracies of imagined merges: quadratic on the logit scale, the same examples for every point."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit

from evomerge.optimizers.base import FloatArray, Observation, Optimizer

#: Examples' losses (n, n_examples), 0 or -1, of points (n, dimension).
Task = Callable[[FloatArray], FloatArray]


def tasks(dimension: int, n_tasks: int, seed: int = 0, n_examples: int = 250) -> tuple[Task, ...]:
    """Each wants coordinates of its own near 1, as experts do, and the others near 0."""
    rng = np.random.default_rng(seed)
    made = []
    for task in range(n_tasks):
        own = np.arange(dimension) % n_tasks == task
        optimum = np.where(own, rng.uniform(0.7, 1.0, dimension), rng.uniform(0.0, 0.3, dimension))
        made.append(_task(optimum, rng.uniform(1.0, 2.0), rng.random(n_examples)))
    return tuple(made)


def _task(optimum: FloatArray, best: float, hardness: FloatArray) -> Task:
    def losses(x: FloatArray) -> FloatArray:
        latent = best - 6.0 * np.mean((x - optimum) ** 2, axis=1)
        return -(hardness < expit(latent)[:, None]).astype(np.float64)

    return losses


def measure(of: Sequence[Task], x: FloatArray) -> FloatArray:
    """Losses (n, n_tasks) of points (n, dimension)."""
    return np.stack([task(x).mean(axis=1) for task in of], axis=1)


def observe(of: Sequence[Task], x: FloatArray, number: int = 0, proposed: bool = True) -> Observation:
    """What an optimizer is told of the point x (dimension,)."""
    examples = tuple(task(x[None])[0] for task in of)
    return Observation(number, x, np.array([each.mean() for each in examples]), proposed, examples)


def drive(optimizer: Optimizer, of: Sequence[Task], n_trials: int) -> list[Observation]:
    """Ask and tell, one at a time, until it wants no more or `n_trials` were told."""
    told: list[Observation] = []
    while len(told) < n_trials and optimizer.wants({}):
        told.append(observe(of, optimizer.ask(len(told)).x, len(told)))
        optimizer.tell(told[-1])
    return told
