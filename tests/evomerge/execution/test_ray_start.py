"""A private Ray that does not start."""

import pytest
import ray

from evomerge.execution.base import ExecutorError
from evomerge.execution.ray_cluster import connect


def test_whatever_ray_raises_at_the_start_is_an_error_of_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an overloaded machine it raises a bare Exception: `ray/_private/node.py` of Ray 2.60."""
    shut_down = []

    def late(**_: object) -> None:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(ray, "shutdown", lambda: shut_down.append(True))
    with pytest.raises(
        ExecutorError, match=r"Ray did not start on this machine: The current node timed out during startup\."
    ) as caught:
        connect()
    assert caught.value.exit_code == 5
    assert shut_down, "what has started of it goes, too"
