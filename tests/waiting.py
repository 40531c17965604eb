"""How tests wait: for something to happen, never for a time to pass. The machine may be as busy as it likes."""

import time
from collections.abc import Callable

#: Seconds that only bound a hang; no test takes them, or says anything about them.
CEILING = 600.0


def wait_until(there: Callable[[], object], seconds: float = CEILING) -> None:
    """Look again and again; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"not within {seconds:g} seconds"
        time.sleep(0.02)
