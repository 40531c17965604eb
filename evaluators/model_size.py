"""Size of a merged model in non-zero weights, which sparse or deeper merges change.

tasks:
  size: {evaluator: model_size}    # bytes in the dtype of the result; or unit: parameters
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch

from evaluators.base import Evaluator, EvaluatorError, MergedModel, Scores, content_ids

Unit = Literal["bytes", "parameters"]


class ModelSize(Evaluator):
    """Amount of non-zero weights of a model; less is better. One value for the whole model.

    Tensors that share memory count once.

    Args:
        unit: "bytes" (of the non-zero weights in the dtype of an export) or "parameters" (their number).
    """

    higher_is_better = False
    needs_language_model = False
    whole_model = True

    def __init__(self, *, unit: Unit = "bytes") -> None:
        if unit not in get_args(Unit):
            raise EvaluatorError(f"unit is {unit!r}; expected one of {', '.join(get_args(Unit))}.")
        self._unit = unit
        self._ids = content_ids([f"model size in {unit}"])

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id."""
        return self._ids

    def score(self, model: MergedModel, ids: Sequence[str] | None = None) -> Scores:
        """Return the size; a model with NaN weights has none."""
        self.rows(ids)
        # A network that computes in float32 may hold weights that an export stores in 16 bits.
        stored = getattr(model, "dtypes", {})
        own = {
            (tensor.data_ptr(), tuple(tensor.shape)): (tensor, stored.get(name, tensor.dtype))
            for name, tensor in model.tensors.items()
        }
        sizes = [self._size(tensor, dtype) for tensor, dtype in own.values()]
        return Scores(self._ids, np.array([sum(sizes)]))

    def _size(self, tensor: torch.Tensor, dtype: torch.dtype) -> float:
        if not torch.isfinite(tensor).all():
            return float("nan")
        size = dtype.itemsize if self._unit == "bytes" else 1
        return float(torch.count_nonzero(tensor)) * size
