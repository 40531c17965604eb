"""Proposals do not depend on the number of threads."""

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from evomerge import plugins
from evomerge.optimizers.base import FloatArray, Observation, Optimizer


def proposed(threads: int) -> FloatArray:
    """The next point of `map` after 150 observations: enough for BLAS to share its work among threads."""
    with threadpool_limits(threads):
        optimizer: Optimizer = plugins.load("optimizer", "map", Optimizer)(24, 1, 0, None)
        rng = np.random.default_rng(0)
        optimum = rng.random(24)
        for number in range(150):
            x = rng.random(24)
            losses = ((x - optimum) ** 2).mean() + 0.05 * np.sin(np.arange(200) * (1 + x.sum()))
            optimizer.tell(Observation(number, x, np.array([losses.mean()]), number > 2, (losses,)))
        point = optimizer.ask(150).x
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {threads}
    return point


def test_one_and_two_threads_propose_the_same_point() -> None:
    assert proposed(1).tolist() == proposed(2).tolist()
