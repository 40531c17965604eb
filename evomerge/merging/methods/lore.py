"""LoRE-Merging: a base and low-rank deltas estimated together (Liu et al., 2025). https://arxiv.org/abs/2502.10749."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.merging.kernels.consensus import elect
from evomerge.merging.kernels.lora_parts import keep_largest
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.spectral import PROJECTIONS, accumulate, compact, is_spectral, spectrum, weighted_sum
from evomerge.merging.method import SHARE, Bounds, MethodError, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Threshold = Literal["absolute", "relative"]
Estimate = tuple[Tensor, list[tuple[Tensor, ...]]]


def _estimate(deltas: Sequence[Tensor], mu: float, threshold: Threshold, iterations: int) -> Estimate:
    """Return the estimated base, as a delta to the given one, and the low-rank delta of each input to it."""
    n_inputs = len(deltas)
    mean = weighted_sum(deltas, [1 / n_inputs] * n_inputs).double()
    if threshold == "relative":
        mu *= max(float(torch.linalg.matrix_norm(deltas[i].double() - mean, 2)) for i in range(n_inputs))
    shift = mean
    parts: list[tuple[Tensor, ...]] = []
    for _ in range(iterations):
        parts, low_rank = [], torch.zeros_like(mean)
        for index in range(n_inputs):
            found = spectrum(deltas[index].double() - shift, above=mu)
            left = found.left * (found.values - mu)
            low_rank.addmm_(left, found.right)
            parts.append(compact(left, found.right))
        found_at, shift = shift, mean - low_rank / n_inputs
    return found_at.float(), parts


def _elected(
    parts: Sequence[tuple[Tensor, ...]], weight: Sequence[float], density: Sequence[float], like: Tensor, tile: Tile
) -> Tensor:
    """Merge the low-rank deltas, trimmed to their largest elements, by TIES."""
    trimmed = [
        keep_largest(accumulate(torch.zeros_like(like), part, 1.0), share).view(-1)
        for part, share in zip(parts, density, strict=True)
    ]
    return elect(trimmed, weight, tile, normalize=True).view_as(like)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2502.10749",
    whole=True,
    linear_in=("scale",),
)
def lore(
    deltas: Sequence[Tensor],
    *,
    # The same direction as the scale; searched only if a range is given.
    weight: Annotated[PerInput, Bounds(1.0, 1.0, 1.0)],
    scale: Annotated[Shared, Bounds(1.0, 0.0, 2.0)],
    # Another threshold requires new decompositions: searched only if a range is given.
    mu: Annotated[Shared, Bounds(0.01, 0.01, 0.01)],
    # Used by "ties" only, hence searched only if a range is given.
    density: Annotated[PerInput, Bounds(0.2, 0.2, 0.2, allowed=SHARE)],
    threshold: Threshold = "absolute",
    aggregate: Literal["average", "sum", "ties"] = "average",
    iterations: int = 20,
    exclude: str = PROJECTIONS,
    source: TensorSource,
    tile: Tile,
) -> Tensor:
    """A base estimated from the models plus the scaled average of their low-rank deltas to it; needs no base.

    mu: amount subtracted from every singular value per iteration, as in the paper's algorithm (its objective has the
    squared nuclear norm); with threshold "relative", in units of the largest singular value of the models' differences
    to their mean. aggregate: "ties" trims each of these deltas to its `density` largest elements and elects signs like
    `ties`. Non-matrices and excluded tensors: the models' mean. Keeps a float32 copy per input in a search.
    """
    if not is_spectral(source, exclude):
        return weighted_sum(deltas, [1 / len(deltas)] * len(deltas))
    if mu < 0 or iterations < 1:
        raise MethodError(f"lore: mu must be 0 or more and iterations 1 or more; they are {mu} and {iterations}.")
    key = (mu, threshold, iterations)
    shift, parts = remembered(source.cache, "lore", key, lambda: _estimate(deltas, *key))
    total = shift.clone()
    if aggregate == "ties":
        return total.add_(_elected(parts, weight, density, total, tile).mul_(scale))
    share = scale / len(deltas) if aggregate == "average" else scale
    for part, value in zip(parts, weight, strict=True):
        accumulate(total, part, share * value)
    return total
