"""DAREx-q: DARE with a different rescaling factor (Deng et al., 2025). https://arxiv.org/abs/2410.09344."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.kernels.sparsify import at_random, drop_at_random
from evomerge.merging.method import SHARE, Bounds, Combination, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

#: The same direction as inverse_q, hence not searched.
Weight = Annotated[PerInput, Bounds(1.0, 1.0, 1.0)]
#: Fraction of kept elements: the paper drops 90 % and more.
Density = Annotated[PerInput, Bounds(0.1, 0.01, 0.5, allowed=SHARE)]
#: 1 / q, from no rescaling to DARE's at the default density.
InverseQ = Annotated[PerInput, Bounds(10.0, 1.0, 10.0)]
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]
#: Upper end of the authors' grid for q.
_LARGEST_Q = 0.998


def _coefficients(
    _source: TensorSource, *, weight: Weight, density: Density, inverse_q: InverseQ, scale: Scale
) -> CopyOf | tuple[float, ...]:
    coefficients = tuple(scale * value * inverse for value, inverse in zip(weight, inverse_q, strict=True))
    kept_whole = all(value == 1 for value in density) or not any(coefficients)
    return (one_model(coefficients) if kept_whole else None) or coefficients


def _thinned(deltas: Sequence[Tensor], *, density: Density, tile: Tile) -> list[Tensor]:
    return [drop_at_random(delta, tile, index, density[index]) for index, delta in enumerate(deltas)]


def _sparse(source: TensorSource, *, density: Density, prepared: tuple[float, ...]) -> Sparse:
    return Sparse([at_random(source, index, share) for index, share in enumerate(density)], prepared)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2410.09344",
    prepare=_coefficients,
    linear_in=("weight", "inverse_q", "scale"),
    gradient=Combination(("weight", "inverse_q", "scale"), terms=_thinned),
    fused=_sparse,
    random=True,
)
def darex_q(deltas: Sequence[Tensor], *, density: Density, prepared: tuple[float, ...], tile: Tile) -> Tensor:
    """Base + scale * sum of weight * inverse_q times sparsified delta; an element is kept with probability `density`.

    inverse_q = 1 / density is DARE. A smaller value is biased but has a smaller error, which helps if few
    elements are kept. `evomerge tools analytic-q` estimates q from data, per layer.
    """
    return combine(_thinned(deltas, density=density, tile=tile), prepared)


def analytic_q(
    contributions: NDArray[np.floating], density: float, *, eta: float = 0.45, certainty: float = 0.95
) -> NDArray[np.float64]:
    """Return the q of each output of a layer that minimizes the bound on its change, in [density, 0.998] (n_rows,).

    contributions (n_rows, n_columns): a delta's element times the mean of its input; a bias is one more
    column. eta: the paper's scale of the error, tuned externally. certainty: probability with which the bound
    holds. A layer's q is the mean over its rows, `inverse_q` its inverse. Minimizes the paper's objective,
    |eta (1 - density / q) sum c + eta^2 phi sum c^2 / (4 q^2) + ln(2 / (1 - certainty))|,
    exactly; the authors scan a grid in float16. Raises ValueError for fractions outside (0, 1).
    """
    for name, share in (("density", density), ("certainty", certainty)):
        if not 0 < share < 1:
            raise ValueError(f"analytic_q needs a {name} between 0 and 1; it is {share}.")
    sums = np.asarray(contributions, dtype=np.float64).sum(axis=1)
    squares = np.square(np.asarray(contributions, dtype=np.float64)).sum(axis=1)
    # The variance proxy of a Bernoulli variable, 1/2 at one half: (1 - 2p) / ln((1 - p) / p) with p dropped.
    phi = 0.5 if density == 0.5 else (2 * density - 1) / math.log(density / (1 - density))
    spread = eta**2 * phi * squares / 4
    with np.errstate(divide="ignore", invalid="ignore"):
        # For a positive sum the objective is positive; its derivative vanishes here.
        lowest = 2 * spread / (eta * density * sums)
        # Otherwise it decreases: x = 1 / q at its zero, if there is one.
        offset, slope = eta * sums + math.log(2 / (1 - certainty)), -eta * density * sums
        zero = 2 * spread / (-slope + np.sqrt(slope**2 - 4 * spread * offset))
    found = np.where(sums > 0, lowest, np.where(offset < 0, zero, _LARGEST_Q))
    return np.asarray(np.clip(np.nan_to_num(found, nan=_LARGEST_Q), min(density, _LARGEST_Q), _LARGEST_Q))
