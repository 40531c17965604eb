"""Scores of multiple choice from the choices' log-likelihoods: by accuracy, or smooth, for a search.

Shapes: n_choices choices of one example; n_orders orders in which they were listed, 1 where a prompt lists none.
"""

import hashlib
from collections.abc import Sequence
from math import log
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from evaluators.base import EvaluatorError, FloatArray

Normalize = Literal["none", "length", "bytes"]
#: What a search follows; the others are smooth.
Score = Literal["accuracy", "probability", "logprob", "bits_per_byte"]
#: Smooth scores of which less is better.
LOWER_IS_BETTER = ("bits_per_byte",)
#: Least logarithm of a probability, in nats: one example that is hopeless must not decide the mean.
LEAST = -100.0


def check_score(score: str) -> str | None:
    """Return the name of a smooth score, None for the accuracy. Raises EvaluatorError for another name."""
    if score not in get_args(Score):
        raise EvaluatorError(f"score is {score!r}; expected one of {', '.join(get_args(Score))}.")
    return None if score == "accuracy" else score


def divisors(choices: Sequence[str], normalize: Normalize) -> FloatArray:
    """Return the divisors of the choices' log-likelihoods, (n_choices,). Raises EvaluatorError for one without text."""
    if normalize == "none":
        return np.ones(len(choices))
    sizes = [len(text) if normalize == "length" else len(text.encode()) for text in choices]
    if min(sizes) == 0:
        raise EvaluatorError(f"normalize: {normalize} needs choices with text; found {list(choices)!r}.")
    return np.array(sizes, dtype=np.float64)


def smooth_value(
    score: str, likelihoods: FloatArray, by: FloatArray, right: Sequence[int], n_bytes: FloatArray
) -> float:
    """Return the smooth score of one example; NaN where the log-likelihoods are not finite.

    likelihoods: of the choices in nats, (n_choices,). by: the metric's divisors, (n_choices,). right: positions of the
    right choices. n_bytes: of the choices, (n_choices,).

    `probability` is that of the right choices among all, normalized as in the metric; `logprob` its logarithm in nats.
    `bits_per_byte` is about the right choice alone, the likeliest of several.
    """
    if not np.isfinite(likelihoods).all():
        return float("nan")
    chosen = list(right)
    if score == "bits_per_byte":
        return float((-likelihoods[chosen] / n_bytes[chosen]).min() / log(2))
    scaled = likelihoods / by
    shares = np.exp(scaled - scaled.max())
    probability = float(shares[chosen].sum() / shares.sum())
    return probability if score == "probability" else max(LEAST, log(probability) if probability > 0 else LEAST)


def orders(example_id: str, n_choices: int, count: int) -> list[tuple[int, ...]]:
    """Return `count` orders of an example's choices, each the positions in the order in which they are listed.

    One order is the file's. More are rotations of random permutations keyed by the id, so that with n_choices of them
    every choice is at every place once.
    """
    if count == 1:
        return [tuple(range(n_choices))]
    found = []
    for number in range(count):
        turn, shift = divmod(number, n_choices)
        keys = [hashlib.sha256(f"order:{turn}:{choice}:{example_id}".encode()).digest() for choice in range(n_choices)]
        shuffled = sorted(range(n_choices), key=keys.__getitem__)
        found.append(tuple(shuffled[shift:] + shuffled[:shift]))
    return found


def averaged(likelihoods: Tensor, listed: Sequence[Sequence[int]], by: FloatArray) -> Tensor:
    """Return the logarithms of the choices' mean probabilities over all orders, (n_choices,), differentiable.

    likelihoods: of the choices of each order as listed, (n_orders * n_choices,). listed: the orders. by: the metric's
    divisors of the choices, (n_choices,). For one order, the log-likelihoods are returned as they are.
    """
    if len(listed) == 1:
        return likelihoods
    rows = likelihoods.reshape(len(listed), -1)
    own = []
    for row, order in zip(rows, listed, strict=True):
        scaled = row / torch.tensor(by[list(order)], dtype=row.dtype, device=row.device)
        own.append(scaled.log_softmax(0)[torch.tensor(np.argsort(order), device=row.device)])
    return torch.stack(own).logsumexp(0) - log(len(listed))
