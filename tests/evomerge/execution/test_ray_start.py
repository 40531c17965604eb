"""A private Ray that does not start."""

import pytest
import ray

from evomerge.execution.base import ExecutorError
from evomerge.execution.ray_cluster import connect


def test_whatever_ray_raises_at_the_start_is_an_error_of_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an overloaded machine it raises a bare Exception: `ray/_private/node.py` of Ray 2.60."""

    def late(**_: object) -> None:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "init", late)
    if ray.is_initialized():
        pytest.skip("another test of this process has connected to Ray")
    with pytest.raises(
        ExecutorError, match=r"Ray did not start on this machine: The current node timed out during"
    ) as caught:
        connect()
    assert caught.value.exit_code == 5
