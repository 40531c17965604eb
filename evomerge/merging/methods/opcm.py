"""OPCM: sequential merging by orthogonal projections (Tang et al., 2025). https://arxiv.org/abs/2501.09522."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.kernels.projection import Compat, Progress, projected_sum
from evomerge.merging.method import Bounds, MethodError, Shared, merge_method
from evomerge.merging.tiles import Models, TensorSource

#: One for the whole model, like the norm; searched only if a range is given, with one group (space: uniform).
Alpha = Annotated[Shared, Bounds(0.5, 0.5, 0.5)]
#: Embeddings are merged without a projection, which is defined for linear layers.
EMBEDDINGS = "*embed*, *wte*, *wpe*"


def _square(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _progress(
    sources: Iterable[TensorSource],
    *,
    alpha: Alpha,
    exclude: str = EMBEDDINGS,
    compat: Compat = "official",
    earlier_models: int = 1,
    earlier_raw: float = 1.0,
    earlier_norm: float = 0.0,
) -> Progress:
    if not 0 <= alpha <= 1 or earlier_models < 1 or earlier_raw <= 0 or earlier_norm < 0:
        raise MethodError(
            f"opcm: alpha must lie between 0 and 1, earlier_models be 1 or more, earlier_raw above 0, earlier_norm "
            f"0 or more; they are {alpha}, {earlier_models}, {earlier_raw} and {earlier_norm}."
        )
    # A tensor may lack inputs; one that has all of them determines which is the first.
    fullest = sorted((source.input_names for source in sources), key=len, reverse=True)
    names = list(dict.fromkeys(name for present in fullest for name in present))
    squares = dict.fromkeys(names, 0.0)
    whole = 0.0

    def look(source: TensorSource) -> float:
        deltas = Models(source, deltas=True)
        for index, name in enumerate(source.input_names):
            squares[name] += _square(deltas[index])
        return _square(projected_sum(deltas, source, names[0], earlier_raw, alpha, exclude, compat))

    for source in sources:
        if not source.identical:
            whole += source.alone(partial(look, source))
    norms = [math.sqrt(squares[name]) for name in names]
    models = earlier_models + len(names) - 1
    norm = (earlier_models * (earlier_norm or norms[0]) + sum(norms[1:])) / models
    raw = math.sqrt(whole) / norm if whole else 1.0
    return Progress(models, raw, norm, names[0], earlier_raw)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2501.09522",
    survey=_progress,
    whole=True,
    linear_in=("scale",),
)
def opcm(
    deltas: Sequence[Tensor],
    *,
    alpha: Alpha,
    scale: Annotated[Shared, Bounds(1.0, 0.1, 2.0)],
    exclude: str = EMBEDDINGS,
    compat: Compat = "official",
    surveyed: Progress,
    source: TensorSource,
) -> Tensor:
    """Each next delta projected away from the merge so far, rescaled to the deltas' mean norm over the whole model.

    In the order of the inputs. alpha: fraction of the singular values whose directions are excluded entirely for the
    next delta. exclude: comma-separated name patterns of matrices that are added without a projection,
    like all other tensors. To add a model later, use the result (made with scale 1) as the first input and
    the `state` of its evomerge.json as options. Keeps a float32 copy of every tensor in a search; an export keeps
    none and projects twice, once for the norm and once for the weights.

    compat: "official" excludes the directions before the one at which the fraction exceeds alpha, none at alpha 1;
    "paper" excludes that one too. Both ignore the null space, for which upstream uses arbitrary directions.
    """
    made = projected_sum(deltas, source, surveyed.first, surveyed.entered, alpha, exclude, compat)
    return made * (scale / surveyed.raw)
