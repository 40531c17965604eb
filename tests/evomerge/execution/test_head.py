"""The look-out for a cluster's head, with real sockets and a clock of its own."""

import socket

import pytest

from evomerge.execution._head import INTERVAL, PATIENCE, Head
from evomerge.execution.base import ExecutorError


@pytest.mark.fault("F9", "a head stops answering", "lost after 30 s, before Ray ends the process")
def test_a_head_is_lost_when_it_has_been_silent_for_long_and_not_before() -> None:
    now = [1000.0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        head = Head(address, clock=lambda: now[0])
        now[0] += 10 * PATIENCE
        head.check()
    answered = now[0]
    while now[0] + INTERVAL < answered + PATIENCE:
        now[0] += INTERVAL
        head.check()
    assert not head.lost
    now[0] += INTERVAL - 0.1
    head.check()  # too soon after the last probe
    now[0] += 0.2
    with pytest.raises(ExecutorError, match=rf"head of the Ray cluster at {address} .* {PATIENCE:.0f} s"):
        head.check()
    assert head.lost


def test_a_head_that_comes_back_in_time_is_not_lost() -> None:
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    head = Head(f"127.0.0.1:{port}", clock=lambda: now[0])
    now[0] = PATIENCE - 1
    head.check()
    with socket.create_server(("127.0.0.1", port)):
        now[0] += INTERVAL
        head.check()
    now[0] += PATIENCE - 1
    head.check()
    assert not head.lost
