"""Size of a merged model: the weights that are not zero, which a sparse or a deeper merge changes.

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
    """How much of a model is not zero; less is better. One value for the whole model.

    unit: "bytes" (what is not zero, in the dtype that an export has) or "parameters" (how many). Tensors that share
    their memory count once.
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
        """The size; a model with weights that are no numbers has none."""
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
