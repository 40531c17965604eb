"""Ridge-regularized quadratics of latents: a binomial GLM with logit link for rates, else least squares.

Iteratively reweighted least squares (McCullagh and Nelder, 1989). The ridge minimizes the leave-one-out error of the
metric itself, in closed form from an eigendecomposition: Allen's PRESS, https://doi.org/10.1080/00401706.1974.10489157.
"""

import numpy as np

from evomerge.optimizers._kernel import Kernel, quadratic
from evomerge.optimizers._links import Data
from evomerge.optimizers._process import Process
from evomerge.optimizers.base import FloatArray

#: Prior variances of the coefficients, in variances of the latents; the ridge is their inverse.
_VARIANCES = np.logspace(-3, 5, 17)
#: Prior variances of second-order coefficients relative to first-order ones; the last is nearly linear.
_CURVATURES = (3.0, 1.0, 0.1, 0.003)
_STEPS = 30


def fit_quadratic(data: Data) -> tuple[Process, Kernel]:
    """Return the fitted quadratic and its covariance in units of the latents' variance."""
    latents = data.latents
    for _ in range(2):  # the ridge is selected again once the weights have converged
        responses, noise = data.link.working(data, latents)
        unit = _choose(data, responses, noise)
        kernel = unit.scaled(data.spread**2)
        process = Process.given(kernel, data.x, responses, noise)
        for _ in range(_STEPS):
            before, latents = latents, process.mean(data.x)
            if np.abs(latents - before).max() < 1e-6:
                break
            process = Process.given(kernel, data.x, *data.link.working(data, latents))
    return process, unit


def _choose(data: Data, responses: FloatArray, noise: FloatArray) -> Kernel:
    """Return the covariance with the smallest leave-one-out error of the losses; noise: variances (n_points,)."""
    root = np.sqrt(noise)
    centred = responses - np.average(responses, weights=1.0 / noise)
    best: tuple[float, Kernel] | None = None
    for curvature in _CURVATURES:
        unit = quadratic(data.x.shape[1], curvature)
        values, vectors = np.linalg.eigh(data.spread**2 * unit(data.x, data.x) / np.outer(root, root))
        values = np.maximum(values, 0.0)
        along = vectors.T @ (centred / root)
        shrink = 1.0 / (1.0 + _VARIANCES[:, None] * values)  # of a residual along each eigenvector
        residuals, leverages = (shrink * along) @ vectors.T, shrink @ (vectors**2).T
        expected = responses - root * residuals / leverages  # (n_variances, n_points)
        errors = np.mean((data.link.losses(expected) - data.losses) ** 2, axis=1)
        least = int(np.argmin(errors))
        if best is None or errors[least] < best[0]:
            best = float(errors[least]), unit.scaled(float(_VARIANCES[least]))
    if best is None:
        raise ValueError("There is no kernel to choose from: expected at least one curvature.")
    return best[1]
