"""Iso-C: isotropic merging in the common subspace (Marczak et al., 2025). https://arxiv.org/abs/2502.04959."""

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.spectral import PROJECTIONS, is_spectral, spectrum, weighted_sum
from evomerge.merging.method import Bounds, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource


def _factor(deltas: Sequence[Tensor], weight: Sequence[float]) -> tuple[Tensor, float, int]:
    """Return the polar factor of the sum, its nuclear norm and its rank."""
    found = spectrum(weighted_sum(deltas, weight))
    return (found.left @ found.right).float(), float(found.values.sum()), len(found.values)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2502.04959",
    whole=True,
    linear_in=("scale",),
)
def iso_c(
    deltas: Sequence[Tensor],
    *,
    # Other weights require another decomposition: searched only if a range is given.
    weight: Annotated[PerInput, Bounds(1.0, 1.0, 1.0)],
    scale: Annotated[Shared, Bounds(1.0, 0.1, 3.0)],
    exclude: str = PROJECTIONS,
    compat: Literal["guarded", "official"] = "guarded",
    source: TensorSource,
) -> Tensor:
    """The sum of the weighted deltas with all of its singular values replaced by their mean, scaled.

    Matrices only, including embeddings: other tensors, and those whose names match a pattern of `exclude`
    (comma-separated), get the scaled mean of the weighted deltas. Keeps a float32 copy of every matrix in a search.
    compat: "official" averages over all min(m, n) singular values, including the zeros of a low-rank
    sum; "guarded" over those above rounding error. Neither fills the null space with arbitrary directions.
    """
    if not is_spectral(source, exclude):
        return weighted_sum(deltas, weight).mul_(scale / len(deltas))
    factor, norm, rank = remembered(source.cache, "iso_c", weight, lambda: _factor(deltas, weight))
    count = min(source.shape) if compat == "official" else max(rank, 1)
    return factor * (scale * norm / count)
