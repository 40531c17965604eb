"""RegMean: regression mean of linear layers (Jin et al., 2022). https://arxiv.org/abs/2212.09849."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import normalized, sole_input
from evomerge.merging.kernels.normal_equations import layer, shrunk, shrunk_diagonal, solve, total
from evomerge.merging.kernels.spectral import weighted_sum
from evomerge.merging.method import Bounds, CopyOf, MethodError, NoGradient, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]


def _shares(source: TensorSource, *, weight: Weight) -> CopyOf | tuple[float, ...]:
    if min(weight) < 0 or not any(weight):
        raise MethodError(
            f"{source.tensor}: regmean needs non-negative weights, not all zero; they are {list(weight)}."
        )
    shares = normalized(weight)
    sole = sole_input(shares)
    return shares if sole is None else CopyOf(sole)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2212.09849",
    gradient=NoGradient("has no gradient: every coefficient would need another solution of each layer's equations"),
    prepare=_shares,
    whole=True,
    needs=("gram",),
)
def regmean(
    deltas: Sequence[Tensor],
    *,
    off_diagonal: Annotated[Shared, Bounds(0.9, 0.1, 1.0)],
    ridge: float = 1e-5,
    prepared: tuple[float, ...],
    source: TensorSource,
) -> Tensor:
    """For each linear layer, the weights whose outputs differ least from the models' own on the models' own inputs.

    The solution W of sum(w_i G_i) W = sum(w_i G_i W_i), where G_i is the second moment of the layer's inputs in model
    i, with its off-diagonal multiplied by `off_diagonal`, and `ridge` of each input's own and of the mean second moment
    added to its diagonal (0 as published): inputs unused in the data are averaged. Tensors without statistics
    get the weighted average. Only the ratios of the weights matter. Keeps float64 products of every layer in a search.
    """
    if not 0 <= off_diagonal <= 1 or ridge < 0:
        raise MethodError(
            f"regmean: off_diagonal must lie between 0 and 1, and ridge must be at least 0; they are "
            f"{off_diagonal} and {ridge}."
        )
    found = layer(source)
    if found.grams is None:
        return weighted_sum(deltas, prepared)
    if "regmean" not in source.cache:
        # Independent of the coefficients: G_i D_i of every input.
        source.cache["regmean"] = [
            gram.double() @ found.columns(delta) for gram, delta in zip(found.grams, deltas, strict=True)
        ]
    system = total([shrunk(gram, off_diagonal, ridge) for gram in found.grams], prepared)
    if not system.diagonal().any():
        return weighted_sum(deltas, prepared)
    right = total(source.cache["regmean"], [share * off_diagonal for share in prepared])
    for gram, delta, share in zip(found.grams, deltas, prepared, strict=True):
        own = gram.diagonal().double()
        extra = shrunk_diagonal(own, ridge) - off_diagonal * own
        right.add_(found.columns(delta) * extra[:, None] * share)
    return found.stored(solve(system, right))
