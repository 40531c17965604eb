"""SHA-256 of weight files, computed in a thread of its own while the files are also read for other purposes."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

#: Returns the SHA-256 of a file, in hexadecimal.
Digest = Callable[[Path], str]

_CHUNK_BYTES = 1 << 22


def digest_of(file: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """Return the SHA-256 of a file; of its beginning only, if `stopped` returns True on the way."""
    digest = hashlib.sha256()
    memory = memoryview(bytearray(_CHUNK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while not stopped() and (size := stream.readinto(memory)):
            digest.update(memory[:size])
    return digest.hexdigest()


class Hashing:
    """The SHA-256 of files, in their order, from the beginning of a block; leaving the block stops the thread.

    It is called with one of the files, and raises OSError for one that cannot be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._stopped = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hashing")
        self._digests = {file: self._thread.submit(digest_of, file, self._stopped.is_set) for file in files}

    def __enter__(self) -> "Hashing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.shutdown(cancel_futures=True)

    def __call__(self, file: Path) -> str:
        """Wait for the SHA-256 of one of the files."""
        return self._digests[file].result()
