"""One Ray for all tests that need one: starting it takes seconds."""

from collections.abc import Iterator

import pytest

from evomerge.execution.ray_pool import start, stop


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    started = start(cpus=4)
    yield
    if started:
        stop()
