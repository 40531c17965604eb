"""AMA: a ratio per group of layers between a model before and after RLHF (Lin et al., 2024). https://arxiv.org/abs/2309.06256."""

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.method import BASE, Affine, Bounds, CopyOf, Shared, merge_method
from evomerge.merging.tiles import TensorSource
from search_spaces.base import Layout

#: The base's share in the authors' code.
Alpha = Annotated[Shared, Bounds(0.2, 0.0, 1.0)]


def _exact(source: TensorSource, *, alpha: Alpha, others: Literal["base", "merge"] = "base") -> CopyOf | None:
    if others == "base" and not _is_linear_layer(source):
        return CopyOf(BASE)
    return one_model((1 - alpha,))


def _is_linear_layer(source: TensorSource) -> bool:
    return len(source.shape) == 2 and Layout.from_names((source.tensor,)).components != ("embedding",)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2309.06256",
    prepare=_exact,
    gradient=Affine(("alpha",)),
    max_inputs=1,
)
def ama(deltas: Sequence[Tensor], *, alpha: Alpha) -> Tensor:
    """alpha * base + (1 - alpha) * model in linear layers: the base is the model before RLHF, the input the one after.

    others: tensors outside linear layers (vectors, embeddings) are taken from the "base", as in the authors' code, or
    "merge"d. The authors keep the mean of alpha over their three groups of layers at its initial value, 0.2: group k
    has 0.2 * n_groups * a[k] / sum(a), where a = sigmoid(s) + 0.2 for a free s. That couples groups, so it belongs in
    the search space, `fixed_mean`; a merge sees one group at a time.
    """
    return deltas[0].mul_(1 - alpha)
