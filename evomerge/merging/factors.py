"""Factors: a low-rank change to a matrix, as stored in an adapter (LoRA). https://arxiv.org/abs/2106.09685."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The change scale * left @ right to a matrix, or its transpose if `transposed`.

    left: (n_outputs, rank), `lora_B`. right: (rank, n_inputs), `lora_A`. Rank 0: no change. transposed: the matrix
    is stored with one row per input, as GPT-2's projections and embeddings are.
    """

    left: Tensor
    right: Tensor
    scale: float
    transposed: bool = False

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> "Factors":
        """Return no change to a matrix of this shape."""
        return cls(torch.zeros(shape[0], 0), torch.zeros(0, shape[1]), 0.0)

    @property
    def rank(self) -> int:
        """Number of rows of `right`."""
        return self.right.shape[0]

    def delta(self) -> Tensor:
        """Return the change itself, float32, in the shape of the matrix; rounded where PEFT rounds it."""
        product = self.left.float() @ self.right.float()
        if self.scale != 1.0:
            product.mul_(self.scale)
        return product.T if self.transposed else product

    def to(self, device: torch.device) -> "Factors":
        """Return the same factors on another device."""
        return replace(self, left=self.left.to(device), right=self.right.to(device))
