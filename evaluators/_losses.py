"""Loss of one example from the log-likelihood of its right answer.

The mean of the expected error and of the negative log-likelihood per token. The first alone has no gradient for answers
that are far from right, the second alone spends itself on hopeless ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from evaluators.base import FloatArray


def mixed(likelihood: Tensor, n_tokens: Tensor | float = 1) -> Tensor:
    """Return (1 - p) / 2 - log(p) / (2 T). likelihood: log(p) in nats. n_tokens: T."""
    return -0.5 * torch.expm1(likelihood) - 0.5 * likelihood / n_tokens


def of_choices(likelihoods: Tensor, divisors: FloatArray, right: Sequence[int]) -> Tensor:
    """Return the loss of a multiple-choice example, ().

    likelihoods: log-likelihoods of the choices, (n_choices,). divisors: the metric's normalization, (n_choices,).
    right: positions of the right choices.
    """
    scale = torch.tensor(divisors, dtype=likelihoods.dtype, device=likelihoods.device)
    # Rounding may push it above 0 where all choices are right.
    return mixed((likelihoods / scale).log_softmax(0)[list(right)].logsumexp(0).clamp(max=0))
