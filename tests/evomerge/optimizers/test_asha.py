"""`asha` keeps the contract of optimizers that ask for parts, and never waits for a rung to fill."""

import numpy as np

from evomerge.optimizers.asha import Asha
from evomerge.optimizers.base import FloatArray, Measures, Observation, Proposal, TaskExamples
from tests.contracts.parts import PartsContract

TASKS = (TaskExamples("one", 270, 1.0),)


class TestAsha(PartsContract):
    plugin = Asha
    learns = True


def tell(optimizer: Asha, number: int, proposal: Proposal, loss: float) -> None:
    rows = proposal.rows or ()
    optimizer.tell(Observation(number, proposal.x, None, examples=(np.full(len(rows[0]), loss),), rows=rows))


def test_a_candidate_climbs_as_soon_as_it_is_in_the_best_third_while_others_are_running() -> None:
    optimizer = Asha(3, 1, 0, least=30)
    optimizer.inform(Measures(TASKS))
    proposals: dict[int, Proposal] = {}
    pending: dict[int, FloatArray] = {}
    for number in range(6):
        proposals[number] = optimizer.ask(number, pending)
        pending[number] = proposals[number].x
    for number, loss in ((0, 0.5), (1, 0.2)):
        tell(optimizer, number, proposals[number], loss)
        del pending[number]
    assert optimizer.ask(6, pending).extends is None  # a third of two is none
    tell(optimizer, 2, proposals[2], 0.9)
    del pending[2]
    climber = optimizer.ask(6, pending)
    assert (climber.extends, climber.x.tolist()) == (1, proposals[1].x.tolist())
    pending[6] = climber.x
    assert optimizer.ask(7, pending).extends is None
    tell(optimizer, 6, climber, 0.3)
    del pending[6]
    assert optimizer.ask(7, pending).extends is None  # alone on its rung


def test_baselines_count_on_every_rung() -> None:
    optimizer = Asha(3, 1, 0, least=30)
    optimizer.inform(Measures(TASKS))
    for number, loss in enumerate((0.6, 0.7)):
        x, values = np.full(3, loss), np.full(270, loss)
        optimizer.tell(Observation(number, x, np.array([loss]), False, (values,)))
    better = optimizer.ask(2)
    tell(optimizer, 2, better, 0.5)
    assert optimizer.ask(3).extends == 2
    middle = optimizer.ask(3)
    tell(optimizer, 3, middle, 0.5)
    last = optimizer.ask(4)
    assert (last.extends, last.rows) == (3, None)
