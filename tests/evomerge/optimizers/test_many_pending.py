"""`gp` and `tpe` with many trials pending: the same after a resume, distinct, and better than random points."""

import numpy as np
import pytest

from evomerge.optimizers._history import step
from evomerge.optimizers._portfolio import Portfolio
from evomerge.optimizers.base import Observation, Optimizer
from evomerge.optimizers.gp import GaussianProcess
from evomerge.optimizers.random import RandomSearch as Random
from evomerge.optimizers.tpe import Tpe
from tests.contracts.optimizer import Ask, asked, simulate

SLOTS, TRIALS = 20, 90
both = pytest.mark.parametrize("kind", [GaussianProcess, Tpe])


@both
def test_resume_goes_on_exactly_where_it_stopped(kind: type[Optimizer]) -> None:
    events = simulate(kind(5, 1, 0), SLOTS, TRIALS)
    asks = [position for position, event in enumerate(events) if isinstance(event, Ask)]
    for position in asks[30::7]:
        resumed, event = kind(5, 1, 0), events[position]
        for earlier in events[:position]:
            if isinstance(earlier, Observation):
                resumed.tell(earlier)
        assert isinstance(event, Ask)
        assert len(event.pending) >= 12
        assert resumed.ask(event.number, event.pending).x.tolist() == event.x.tolist()


@both
def test_points_are_distinct(kind: type[Optimizer]) -> None:
    points = asked(simulate(kind(5, 1, 0), SLOTS, TRIALS))
    assert len({tuple(x) for x in points}) == len(points)


@both
def test_beats_random_search(kind: type[Optimizer]) -> None:
    best = {}
    for plugin in (kind, Random):
        events = simulate(plugin(6, 1, 3), SLOTS, 150)
        losses = [e.losses[0] for e in events if isinstance(e, Observation) and e.losses is not None]
        best[plugin] = min(losses)
    assert best[kind] < 0.6 * best[Random]


def test_a_process_is_given_results_in_steps() -> None:
    """All trials of a block are proposed from the same results; the first ones of the next block are newer."""
    optimizer = GaussianProcess(3, 1, 0)
    rng = np.random.default_rng(0)
    pending = {1000 + n: rng.random(3) for n in range(64)}
    asks = []
    for number in range(97):
        x = rng.random(3)
        optimizer.tell(Observation(number, x, np.array([np.mean((x - 0.4) ** 2)])))
        asks.append(optimizer.ask(200, pending).x.tolist() if number > 62 else [])
    # 64 results and more come in steps of 16.
    assert all(x == asks[63] for x in asks[64:79])
    assert asks[79] != asks[63]
    assert all(x == asks[79] for x in asks[80:95])


def test_workers_that_wait_for_proposals_are_many_too() -> None:
    """Otherwise a pause in which all trials end would be followed by slow proposals, one for each idle worker."""
    optimizer, pending = GaussianProcess(3, 1, 0), {1000 + n: np.full(3, n / 64) for n in range(63)}
    rng = np.random.default_rng(0)
    for number in range(30):
        x = rng.random(3)
        optimizer.tell(Observation(number, x, np.array([np.mean((x - 0.4) ** 2)])))
    optimizer.expect(64)
    assert optimizer.ask(200).x.tolist() == optimizer.ask(200, pending).x.tolist()
    portfolio = Portfolio(
        {"a": 2, "b": 2}, 1, 0, build=lambda dimension, start: GaussianProcess(dimension, 1, 0, start)
    )
    portfolio.expect(64)
    assert [arm.optimizer.n_workers for arm in portfolio._arms] == [64, 64]


@pytest.mark.parametrize(("n_pending", "size"), [(0, 1), (3, 1), (11, 1), (12, 8), (63, 32), (71, 32), (287, 128)])
def test_steps_follow_from_the_number_of_pending_trials(n_pending: int, size: int) -> None:
    assert step(n_pending, 1000) == size


@pytest.mark.parametrize(("n_told", "size"), [(0, 1), (10, 2), (16, 4), (100, 16), (128, 32), (5000, 32)])
def test_steps_are_short_where_there_are_few_results(n_told: int, size: int) -> None:
    assert step(64, n_told) == size
