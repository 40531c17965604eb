"""The best approximation of a weight's change by factors of a given rank (Eckart and Young). https://doi.org/10.1007/BF02288367."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.kernels.spectral import Spectrum, spectrum


@dataclass(frozen=True)
class Approximation:
    """left (m, rank) @ right (rank, n), float32. error, size: Frobenius norms of the residual and of the change."""

    left: Tensor
    right: Tensor
    error: float
    size: float


def approximate(change: Tensor, rank: int, parts: Sequence[Factors], noise: float) -> Approximation:
    """Return the factors of `rank` closest to a change (m, n).

    parts: factors that the change may be a combination of; empty otherwise. If it is one, up to `noise`
    (a Frobenius norm), their small product is decomposed instead of the matrix: exact, and without the rounding errors
    of the merged weights. Superfluous factors are zero.
    """
    wide = change.double()
    found = _of_parts(wide, parts, noise) or spectrum(wide, rank)
    count = min(rank, len(found.values))
    roots = found.values[:count].sqrt()
    left, right = torch.zeros(len(change), rank), torch.zeros(rank, change.shape[1])
    left[:, :count] = found.left[:, :count] * roots
    right[:count] = roots[:, None] * found.right[:count]
    error = float(torch.linalg.norm(wide - left.double() @ right.double()))
    return Approximation(left, right, error, float(torch.linalg.norm(wide)))


def _of_parts(change: Tensor, parts: Sequence[Factors], noise: float) -> Spectrum | None:
    """Return the spectrum of a change whose columns and rows are in the spans of the parts' factors, or None."""
    if not 0 < sum(part.rank for part in parts) < min(change.shape):
        return None
    left = torch.linalg.qr(torch.cat([part.left.double() for part in parts], dim=1)).Q
    right = torch.linalg.qr(torch.cat([part.right.double() for part in parts]).T).Q
    core = left.T @ change @ right
    if float(change.square().sum() - core.square().sum()) > noise**2:
        return None
    turned_left, values, turned_right = torch.linalg.svd(core)
    return Spectrum(left @ turned_left, values, turned_right @ right.T)
