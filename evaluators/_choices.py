"""Choices of an example: divisors of their log-likelihoods."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from evaluators.base import EvaluatorError, FloatArray

Normalize = Literal["none", "length", "bytes"]


def divisors(choices: Sequence[str], normalize: Normalize) -> FloatArray:
    """Return the divisors of the choices' log-likelihoods, (n_choices,). Raises EvaluatorError for one without text."""
    if normalize == "none":
        return np.ones(len(choices))
    sizes = [len(text) if normalize == "length" else len(text.encode()) for text in choices]
    if min(sizes) == 0:
        raise EvaluatorError(f"normalize: {normalize} needs choices with text; found {list(choices)!r}.")
    return np.array(sizes, dtype=np.float64)
