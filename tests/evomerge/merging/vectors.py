"""The vectors of the worked examples: base, three deltas to it, and the merged delta of a method."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.contracts.merge_method import merged

BASE = torch.ones(6)
DELTAS = (
    torch.tensor([4, -3, 2, 1, 0.1, -0.5]),
    torch.tensor([-1, -3.5, 0.8, -1.2, 2, 0.5]),
    torch.tensor([2, 0.9, -4, 0.3, -2.5, 0.25]),
)


def merged_delta(method: str, values: dict[str, Any], n_inputs: int = 3, **given: Any) -> Tensor:
    """Merged weights of the example minus the base."""
    return merged(method, BASE, [BASE + delta for delta in DELTAS[:n_inputs]], values, **given) - BASE


def check(result: Tensor, expected: Sequence[float]) -> None:
    """Equal to six decimals, as the examples are printed."""
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=2e-6)
