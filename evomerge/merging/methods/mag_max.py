"""MagMax: the largest of all deltas, element by element (Marczak et al., 2024). https://arxiv.org/abs/2407.06322."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.method import Bounds, Shared, merge_method


@merge_method(operates_on="deltas", reference="https://arxiv.org/abs/2407.06322", linear_in=("scale",))
def mag_max(deltas: Sequence[Tensor], *, scale: Annotated[Shared, Bounds(0.5, 0.1, 1.5)]) -> Tensor:
    """Base + scale * the delta of largest magnitude per element; of equal magnitudes, the positive one."""
    high, low = deltas[0], deltas[0].clone()
    for delta in deltas[1:]:
        torch.maximum(high, delta, out=high)
        torch.minimum(low, delta, out=low)
    return torch.where(high >= -low, high, low).mul_(scale)
