"""Writing tensors in a thread of its own while the next ones are merged."""

import os
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Bytes of tensors that wait to be written; a larger tensor waits alone.
WAITING_BYTES = 1 << 28

_CHUNK_BYTES = 1 << 24
#: Bytes after which a file is synced: the disk then works during the merge, and the last sync is short.
SYNC_BYTES = 1 << 26


class Written(NamedTuple):
    """A tensor that was written to its file: its name, size in bytes and CRC-32."""

    name: str
    nbytes: int
    checksum: int


class WriteBehind:
    """Writes tensors in the order of `put`; leaving the block stops the thread, even within a tensor.

    `put` and `finish` return what was written since the last call, and raise the errors of the disk (OSError).
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._stopped = threading.Event()
        self._waiting: deque[tuple[Future[Written], int]] = deque()
        self._unsynced = 0

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.shutdown(cancel_futures=True)

    def put(self, name: str, tensor: Tensor, file: BinaryIO, offset: int) -> list[Written]:
        """Write a tensor at this offset of a file; waits while too many bytes are waiting."""
        written = []
        room = max(WAITING_BYTES - tensor.nbytes, 0)
        while self._waiting and (self._waiting[0][0].done() or sum(nbytes for _, nbytes in self._waiting) > room):
            written.append(self._waiting.popleft()[0].result())
        self._waiting.append((self._thread.submit(self._write, name, tensor, file, offset), tensor.nbytes))
        return written

    def finish(self) -> list[Written]:
        """Wait until everything is written."""
        written = [future.result() for future, _ in self._waiting]
        self._waiting.clear()
        return written

    def _write(self, name: str, tensor: Tensor, file: BinaryIO, offset: int) -> Written:
        checksum = 0
        file.seek(offset)
        for chunk in chunks(tensor):
            if self._stopped.is_set():
                break
            file.write(chunk.data)
            checksum = zlib.crc32(chunk.data, checksum)
            self._unsynced += chunk.nbytes
            if self._unsynced >= SYNC_BYTES:
                file.flush()
                os.fdatasync(file.fileno())
                self._unsynced = 0
        return Written(name, tensor.nbytes, checksum)


def checksum_of(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes."""
    checksum = 0
    for chunk in chunks(tensor):
        checksum = zlib.crc32(chunk.data, checksum)
    return checksum


def chunks(tensor: Tensor) -> Iterator[NDArray[np.uint8]]:
    """Yield a tensor's bytes in pieces."""
    flat: NDArray[np.uint8] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), _CHUNK_BYTES):
        yield flat[start : start + _CHUNK_BYTES]
