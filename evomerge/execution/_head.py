"""Monitoring of a Ray cluster's head.

After losing its head, a driver runs on for a minute; then Ray ends the process from C++ with exit code 1, without an
exception or `finally`. So the head is probed here over a plain connection, and its loss is an error in time.
"""

import socket
import time
from collections.abc import Callable

from evomerge.execution.base import ExecutorError

#: Seconds between two probes, and timeout of one.
INTERVAL = 2.0
#: Seconds without an answer until the head counts as lost. Ray gives up after 60 (gcs_rpc_server_reconnect_timeout_s).
PATIENCE = 30.0


class Head:
    """The head at `address` (HOST:PORT). clock: returns monotonic seconds."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._answered = self._probed = clock()
        #: Whether its calls are answered, besides connections: a head that hangs still accepts these.
        self._calls = False
        self.lost = False

    def answered(self) -> None:
        """Record that it has answered a call; from now on, connections alone do not count."""
        self._calls = True
        self._answered = self._clock()

    def check(self) -> None:
        """Probe the head if a probe is due. Raises ExecutorError once it has been silent for PATIENCE seconds."""
        now = self._clock()
        if now < self._probed + INTERVAL:
            return
        if now > self._probed + PATIENCE / 2:  # this process was stopped or busy, and has not listened
            self._answered = now
        self._probed = now
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=INTERVAL).close()
            if not self._calls:
                self._answered = self._clock()
            why = "it accepts connections, but answers no call"
        except OSError as error:
            why = str(error)
        silent = self._clock() - self._answered
        if silent >= PATIENCE:
            self.lost = True
            raise ExecutorError(
                f"The head of the Ray cluster at {self._address} has not answered for {silent:.0f} s ({why}). "
                "Recorded results are safe, and interrupted trials run again. Start the cluster, then resume."
            )
