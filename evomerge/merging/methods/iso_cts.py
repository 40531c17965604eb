"""Iso-CTS: isotropic merging in common and task subspaces (Marczak et al., 2025). https://arxiv.org/abs/2502.04959."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.spectral import NOISE, PROJECTIONS, is_spectral, polar, spectrum, weighted_sum
from evomerge.merging.method import SHARE, Bounds, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource

Compat = Literal["guarded", "official"]


def _ranks(full: int, n_inputs: int, fraction: float) -> tuple[int, int]:
    """Return the sizes of the common subspace and of each task's: common + n_inputs * task = full."""
    free = full - int(full * fraction)
    # Rounded to the nearest multiple, ties to even, as published; but never more than available.
    task = round(free / n_inputs)
    return (
        (full - task * n_inputs, task)
        if task * n_inputs <= full
        else (full - free // n_inputs * n_inputs, free // n_inputs)
    )


def _merged(deltas: Sequence[Tensor], weight: Sequence[float], fraction: float, compat: Compat) -> Tensor:
    shape = deltas[0].shape
    common, task = _ranks(min(shape), len(deltas), fraction)
    total = spectrum(weighted_sum(deltas, weight))
    shared = total.left[:, :common]
    largest = float(total.values[0]) if len(total.values) else 0.0
    found = []
    for index in range(len(deltas) if task else 0):
        delta = deltas[index].double() * weight[index]
        found.append(spectrum(delta - shared @ (shared.T @ delta), task, above=NOISE * largest))
    left = polar(torch.cat([*(one.left for one in found), shared], 1))
    right = polar(torch.cat([*(one.right for one in found), total.right[:common]]))
    values = torch.cat([*(one.values for one in found), total.values[:common]])
    count = min(shape) if compat == "official" else max(len(values), 1)
    return (left @ right).mul_(values.sum() / count).float()


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2502.04959",
    whole=True,
    linear_in=("scale",),
)
def iso_cts(
    deltas: Sequence[Tensor],
    *,
    # Other weights or fractions require new decompositions: searched only if a range is given.
    weight: Annotated[PerInput, Bounds(1.0, 1.0, 1.0)],
    common_fraction: Annotated[Shared, Bounds(0.8, 0.8, 0.8, allowed=SHARE)],
    scale: Annotated[Shared, Bounds(1.0, 0.1, 3.0)],
    exclude: str = PROJECTIONS,
    compat: Compat = "guarded",
    source: TensorSource,
) -> Tensor:
    """Leading directions of the sum and of each delta's residual, orthogonalized, all with equal singular values.

    common_fraction (0 to 1) of the rank belongs to the sum. Non-matrices and excluded tensors: see iso_c.

    compat: "official" averages over all min(m, n) singular values, "guarded" over those above rounding error.
    """
    if not is_spectral(source, exclude):
        return weighted_sum(deltas, weight).mul_(scale / len(deltas))
    key = (weight, common_fraction, compat)
    return remembered(source.cache, "iso_cts", key, lambda: _merged(deltas, *key)) * scale
