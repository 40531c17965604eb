"""One Ray for all tests that need one: starting it takes seconds."""

from collections.abc import Iterator

import pytest

from evomerge.execution.ray_cluster import connect


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    connection = connect(cpus=4)
    yield
    connection.close()
