"""A look-out for the head of a Ray cluster.

Without its head a driver goes on for a minute; then Ray ends the process from C++, exit code 1, with no exception and
no `finally`. So the head is probed here, by a plain connection, and its loss is an error in time.
"""

import socket
import time
from collections.abc import Callable

from evomerge.execution.base import ExecutorError

#: Seconds between two probes, and that one may take.
INTERVAL = 2.0
#: Seconds without an answer after which the head is lost. Ray gives up after 60 (gcs_rpc_server_reconnect_timeout_s).
PATIENCE = 30.0


class Head:
    """The head at `address` (HOST:PORT). clock: seconds of a monotonic clock."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._answered = self._probed = clock()
        self.lost = False

    def check(self) -> None:
        """Probe the head if it is time to. Raises ExecutorError when it has been silent for PATIENCE seconds."""
        if self._clock() < self._probed + INTERVAL:
            return
        self._probed = self._clock()
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=INTERVAL).close()
        except OSError as error:
            silent = self._clock() - self._answered
            if silent >= PATIENCE:
                self.lost = True
                raise ExecutorError(
                    f"The head of the Ray cluster at {self._address} has not answered for {silent:.0f} s ({error}). "
                    "What was told is safe; what was running runs again. Start the cluster, then resume."
                ) from error
        else:
            self._answered = self._clock()
