"""`gp` and `tpe` with many trials pending: the same after a resume, distinct, and better than random points."""

import numpy as np
import pytest

from evomerge.optimizers._history import step
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
    for number in range(33):
        x = rng.random(3)
        optimizer.tell(Observation(number, x, np.array([np.mean((x - 0.4) ** 2)])))
        asks.append(optimizer.ask(200, pending).x.tolist() if number > 14 else [])
    assert all(x == asks[15] for x in asks[16:31])
    assert asks[31] != asks[15]
    assert asks[32] == asks[31]


@pytest.mark.parametrize(("n_pending", "size"), [(0, 1), (3, 1), (11, 1), (12, 4), (63, 16), (71, 16), (287, 64)])
def test_steps_follow_from_the_number_of_pending_trials(n_pending: int, size: int) -> None:
    assert step(n_pending) == size
