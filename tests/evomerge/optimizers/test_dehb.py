"""`dehb` keeps the contract of optimizers that ask for parts, and breeds on every rung as the paper says."""

from collections.abc import Callable

import numpy as np
import pytest

from evomerge.optimizers.base import FloatArray, Measures, Observation, Proposal, TaskExamples
from evomerge.optimizers.dehb import Dehb
from tests.contracts.parts import PartsContract

TASKS = (TaskExamples("one", 270, 1.0),)
#: Rungs of 30, 90 and 270 examples.
LEAST = 30


class TestDehb(PartsContract):
    plugin = Dehb
    learns = True


def told(number: int, proposal: Proposal, loss: float) -> Observation:
    x, rows = proposal.x, proposal.rows
    if rows is None:
        return Observation(number, x, np.array([loss]), examples=(np.full(270, loss),))
    return Observation(number, x, None, examples=(np.full(len(rows[0]), loss),), rows=rows)


def followed(n: int, point: Callable[[int, FloatArray], FloatArray] = lambda _, x: x) -> tuple[Dehb, list[Proposal]]:
    """Proposals where the loss is the first coordinate. point: replaces the points of new candidates."""
    optimizer, proposals = Dehb(4, 1, 0, least=LEAST), []
    optimizer.inform(Measures(TASKS))
    for number in range(n):
        proposal = optimizer.ask(number)
        x = proposal.x if proposal.extends is not None else point(number, proposal.x)
        proposal = Proposal(x, rows=proposal.rows, extends=proposal.extends)
        proposals.append(proposal)
        optimizer.tell(told(number, proposal, float(x[0])))
    return optimizer, proposals


def counts(proposals: list[Proposal]) -> list[tuple[int, bool]]:
    """Number of examples, 0 for all that are left, and whether the trial extends an earlier one."""
    return [(sum(map(len, p.rows or ())), p.extends is not None) for p in proposals]


def test_one_bracket_of_successive_halving_comes_first_and_then_every_rung_is_bred() -> None:
    _, proposals = followed(34)
    assert counts(proposals) == [
        *[*[(30, False)] * 9, *[(60, True)] * 3, (0, True)],
        *[*[(90, False)] * 3, (0, False)],
        *[(0, False)] * 3,
        *[*[(30, False)] * 9, *[(90, False)] * 3, (0, False)],
        (90, False),
    ]


def first_bracket() -> tuple[Dehb, list[Proposal]]:
    """All that climb share coordinate 1, and no other candidate has its value."""
    rng = np.random.default_rng(0)

    def point(number: int, _: FloatArray) -> FloatArray:
        return np.array([0.1 * number, 0.625 if number < 3 else rng.random(), *rng.random(2)])

    return followed(13, point)


def test_children_come_from_the_best_of_the_rung_and_the_member_that_they_may_replace() -> None:
    optimizer, proposals = first_bracket()
    assert [p.extends for p in proposals[9:]] == [0, 1, 2, 9]
    children = [optimizer.ask(number).x for number in range(13, 40)]
    assert {float(x[1]) for x in children} == {0.625}
    assert len({x.tobytes() for x in children}) > 20
    parents = {float(p.x[2]) for p in proposals[:3]}
    kept = [float(x[2]) in parents for x in children]
    assert 0.2 < np.mean(kept) < 0.8  # crossover takes half of the coordinates from the mutant


def bred_on_the_middle_rung(loss: float, children: tuple[int, int, int]) -> set[float]:
    """Coordinate 1 of what is bred for the middle rung after `children` on each rung, which have 0.875 there.

    Those on the middle rung have a loss, the others fail.
    """
    optimizer, _ = first_bracket()
    middle, other = optimizer.ask(13).rows, Dehb(4, 1, 0, least=LEAST)
    other.inform(Measures(TASKS))
    number = 13
    for rows, n in zip((other.ask(0).rows, middle, None), children, strict=True):
        for _ in range(n):
            child = Proposal(np.array([number / 1000, 0.875, 0.5, 0.5]), rows=rows)
            failed = Observation(number, child.x, None, rows=rows)
            optimizer.tell(told(number, child, loss) if rows == middle else failed)
            number += 1
    bred = [optimizer.ask(number + more) for more in range(10)]
    assert all(proposal.rows == middle for proposal in bred)
    return {float(proposal.x[1]) for proposal in bred}


@pytest.mark.parametrize(("loss", "coordinate"), [(-1.0, 0.875), (5.0, 0.625)])
def test_a_child_replaces_a_member_of_its_rung_only_if_it_is_better_there(loss: float, coordinate: float) -> None:
    """After five rounds of brackets, the next one begins on the middle rung, and breeds from its own members."""
    assert bred_on_the_middle_rung(loss, children=(45, 30, 25)) == {coordinate}


def test_the_second_rung_of_a_bracket_breeds_from_the_best_of_the_rung_below() -> None:
    """The best of the lowest rung have 0.625, the members of the middle rung, with which children compete, 0.875."""
    assert bred_on_the_middle_rung(-1.0, children=(54, 33, 29)) == {0.625, 0.875}
