"""A closed-form task for tests and documentation: quality = exp(-curvature * mean((c - optimum)^2)).

It needs no network: the quality depends on the coefficients c alone.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from evaluators._examples import check_limit
from evaluators.base import Evaluator, EvaluatorError, FloatArray, MergedModel, Scores, content_ids

Noise = Literal["none", "binomial"]

#: Relative spread of the examples' graded values around the quality.
SPREAD = 0.2


class Synthetic(Evaluator):
    """A bowl around a keyed optimum, measured on n_examples examples.

    Args:
        task: Number of the task; each number has its own optimum, so that tasks conflict.
        n_examples: Number of examples.
        noise: "none" for graded values whose mean over all examples is the quality; "binomial" for 1 where the quality
            exceeds the example's keyed threshold, else 0, which approximates it.
        curvature: Factor of the squared distance in the exponent.
        low: Lower end of the optima's range.
        high: Upper end of the optima's range.
        seed: Key of optima and examples.
        delay: Seconds per call.
        fail: Fraction of the candidates that raise an error, keyed by their coefficients.
        limit: Use at most N examples.
    """

    needs_language_model = False
    needs_weights = False

    def __init__(
        self,
        *,
        task: int = 0,
        n_examples: int = 100,
        noise: Noise = "none",
        curvature: float = 4.0,
        low: float = 0.0,
        high: float = 1.0,
        seed: int = 0,
        delay: float = 0.0,
        fail: float = 0.0,
        limit: int | None = None,
    ) -> None:
        check_limit(limit)
        if n_examples < 1 or noise not in get_args(Noise):
            raise EvaluatorError(
                f"n_examples is {n_examples}, noise {noise!r}; expected 1 or more, one of {get_args(Noise)}."
            )
        self._key = f"{seed}/{task}"
        self._noise, self._curvature, self._range = noise, curvature, (low, high)
        self._delay, self._fail = delay, fail
        every = content_ids([f"synthetic {self._key} example {i}" for i in range(n_examples)])
        draws = np.array([_uniform(f"{self._key}/{example_id}") for example_id in every])
        self._ids = every[:limit]
        self._thresholds = draws[:limit]
        self._grades = 1.0 + SPREAD * (self._thresholds - draws.mean())

    @property
    def example_ids(self) -> tuple[str, ...]:
        """Ids keyed by seed and task."""
        return self._ids

    def optimum(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """Return the best coefficients of one parameter."""
        draws = [_uniform(f"{self._key}/{name}/{i}") for i in range(int(np.prod(shape)))]
        return self._range[0] + (self._range[1] - self._range[0]) * np.reshape(draws, shape)

    def quality(self, model: MergedModel) -> float:
        """Return the quality in closed form, in (0, 1]; NaN for NaN coefficients.

        Raises EvaluatorError if the model has no coefficients.
        """
        parts = [
            (np.asarray(values) - self.optimum(name, np.shape(values))).ravel()
            for name, values in sorted(model.coefficients.items())
        ]
        distances = np.concatenate(parts) if parts else np.empty(0)
        if not distances.size:
            raise EvaluatorError("The model has no coefficients; a synthetic task scores only those.")
        return float(np.exp(-self._curvature * np.mean(distances**2)))

    def score(self, model: MergedModel, ids: Sequence[str] | None = None) -> Scores:
        """Return the values of the examples; raises EvaluatorError for the fraction `fail` of the candidates."""
        rows = self.rows(ids)
        time.sleep(self._delay)
        if _uniform(f"{self._key}/fail/{_fingerprint(model)}") < self._fail:
            raise EvaluatorError("This synthetic task fails for this candidate because of its option `fail`.")
        quality = self.quality(model)
        values = self._grades * quality
        if self._noise == "binomial" and not np.isnan(quality):
            values = (self._thresholds < quality).astype(np.float64)
        return Scores(tuple(self._ids[row] for row in rows), values[rows])


def _uniform(key: str) -> float:
    """Return a number in [0, 1) derived from the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _fingerprint(model: MergedModel) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(model.coefficients.items()):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return digest.hexdigest()
