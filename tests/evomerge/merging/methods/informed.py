"""Statistics from data for random models: second moments of made-up activations and gradients, keyed by a name."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tests.contracts.merge_method import Statistics

#: Layers that read more than this are taken as stored the other way round, which keeps their moments small.
WIDEST = 2000


def statistics(model: str, tensors: Mapping[str, Tensor], *kinds: str) -> Statistics:
    """Statistics of these kinds: Fisher information and masks of every tensor, second moments of every matrix."""
    # The kinds are there, whatever the tensors.
    found = Statistics({f"{kind}/elsewhere": torch.ones(1) for kind in kinds})
    for name, tensor in tensors.items():
        random = np.random.default_rng([ord(letter) for letter in model + name])
        if "fisher" in kinds:
            found[f"fisher/{name}"] = torch.tensor(random.exponential(size=tensor.shape) ** 2, dtype=torch.float32)
        if "mask" in kinds:
            found[f"mask/{name}"] = torch.tensor(random.random(tensor.shape) < 0.5)
        if tensor.dim() == 2 and "gram" in kinds:
            n_out, n_in = tensor.shape
            if n_in > WIDEST:
                n_out, n_in = n_in, n_out
                found[f"transposed/{name}"] = torch.ones(1, dtype=torch.uint8)
            found[f"gram/{name}"] = second_moment(random, n_in)
            if "gram_out" in kinds and n_out <= WIDEST:
                found[f"gram_out/{name}"] = second_moment(random, n_out) * 1e-4
    return found


def second_moment(random: np.random.Generator, size: int) -> Tensor:
    """Of three times as many random vectors as they have elements, some elements larger than others."""
    rows = random.normal(size=(3 * size, size)) * random.exponential(size=size)
    return torch.tensor(rows.T @ rows / len(rows), dtype=torch.float32)
