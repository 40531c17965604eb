"""What a device can do at most, measured: bandwidth of its memory, and speed of matrix products."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

#: Bytes of each of the three vectors of the triad on a CPU: far beyond its caches, and quick to measure.
_VECTOR = 128 * 2**20
#: Rows and columns of the square matrices.
_ROWS = 1024
#: Repetitions, of which the fastest counts: another process may take the device in between.
_REPEATS = 5


@dataclass(frozen=True)
class MachineLimits:
    """bandwidth: bytes per second that a triad (c = a + s b) reads and writes. products: operations per second."""

    bandwidth: float
    products: float


def machine_limits(device: str, dtype: torch.dtype, threads: int) -> MachineLimits:
    """Measure a device's limits, in about a second.

    Args:
        device: Torch device.
        dtype: Dtype of the matrices, that of forward passes.
        threads: Torch threads on a CPU.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return MachineLimits(_bandwidth(device), _products(device, dtype))
    finally:
        torch.set_num_threads(before)


def _bandwidth(device: str) -> float:
    a, b, c = (torch.zeros(_VECTOR // 4, device=device) for _ in range(3))
    return 3 * _VECTOR / _fastest(device, lambda: torch.add(a, b, alpha=2.0, out=c))


def _products(device: str, dtype: torch.dtype) -> float:
    a, b = (torch.ones((_ROWS, _ROWS), dtype=dtype, device=device) for _ in range(2))
    return 2 * _ROWS**3 / _fastest(device, lambda: a @ b)


def _fastest(device: str, operation: Callable[[], torch.Tensor]) -> float:
    found = []
    for _ in range(_REPEATS + 1):
        begin = time.perf_counter()
        operation()
        synchronize(device)
        found.append(time.perf_counter() - begin)
    return min(found[1:])


def synchronize(device: str | torch.device) -> None:
    """Wait until a GPU has finished: calls return before. Those to a CPU return afterwards."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
