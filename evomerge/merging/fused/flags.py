"""Flags on a GPU: whether results are finite, read once per merge instead of waiting for the GPU after each tensor."""

from collections.abc import Callable

import torch
from torch import Tensor

#: Returns an int32 on the device, zero until a kernel sets it because a result is not finite.
Flag = Callable[[], Tensor]


class Flags:
    """One flag per merged tensor on a device. Without use, they take no memory there."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._device = device
        self._memory: Tensor | None = None

    def at(self, number: int) -> Flag:
        """Return the flag of a tensor."""
        return lambda: self._all()[number]

    def raised(self) -> list[int]:
        """Wait for the device and return the numbers of the flags that are set, in order."""
        if self._memory is None:
            return []
        found: list[int] = self._memory[:, 0].nonzero().flatten().tolist()
        return found

    def _all(self) -> Tensor:
        if self._memory is None:
            # 16 bytes each: kernels are compiled for the alignment of their arguments.
            self._memory = torch.zeros((self._size, 4), dtype=torch.int32, device=self._device)
        return self._memory
