"""Rungs, brackets and their schedule: who is compared with whom, on which examples, and who climbs."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from evomerge.optimizers._brackets import Bracket, Brackets
from evomerge.optimizers._rungs import Candidate, Rungs
from evomerge.optimizers.base import Measures, Observation, OptimizerError, Proposal, TaskExamples
from evomerge.optimizers.hyperband import Hyperband
from evomerge.optimizers.successive_halving import SuccessiveHalving

TASKS = (TaskExamples("one", 180, 0.75), TaskExamples("two", 90, 0.25))


def test_a_rung_is_a_prefix_with_the_tasks_in_proportion_and_the_last_one_is_everything() -> None:
    rungs = Rungs(TASKS, seed=0, eta=3, least=10)
    assert rungs.sizes == (10, 30, 90, 270)
    for rung in range(rungs.top):
        below, here, added = rungs.rows(rung), rungs.rows(rung + 1), rungs.rows(rung + 1, above=rung)
        for few, many, new in zip(below, here, added, strict=True):
            assert set(few) < set(many)
            assert set(new) == set(many) - set(few)
            assert list(many) == sorted(many)
        assert abs(len(below[0]) - 2 * len(below[1])) <= 2
    assert rungs.rows(rungs.top) == (tuple(range(180)), tuple(range(90)))
    assert Rungs(TASKS, seed=1, eta=3, least=10).rows(0) != rungs.rows(0)


def test_the_loss_on_a_rung_is_the_weighted_mean_of_its_examples() -> None:
    rungs = Rungs(TASKS, seed=0, eta=3, least=10)
    values = [np.arange(180.0), 1000 + np.arange(90.0)]
    for rung in range(rungs.top + 1):
        one, two = rungs.rows(rung)
        assert rungs.loss(values, rung) == pytest.approx(0.75 * np.mean(one) + 0.25 * (1000 + np.mean(two)))


@pytest.mark.parametrize(
    ("tasks", "sizes"),
    [
        ((TaskExamples("one", 500, 1.0),), (56, 167, 500)),
        ((TaskExamples("one", 500, 0.9), TaskExamples("small", 5, 0.1)), (56, 168, 505)),
        ((TaskExamples("one", 500, 0.9), TaskExamples("small", 1, 0.1)), None),
        ((TaskExamples("one", 500, 1.0), TaskExamples("small", 1, 0.0)), (56, 167, 501)),
        ((TaskExamples("one", 59, 1.0),), None),
        ((TaskExamples("one", 60, 1.0),), (20, 60)),
    ],
)
def test_the_lowest_rung_holds_enough_examples_and_every_task_that_has_a_weight(
    tasks: tuple[TaskExamples, ...], sizes: tuple[int, ...] | None
) -> None:
    if sizes is None:
        with pytest.raises(OptimizerError, match="Rungs need at least"):
            Rungs(tasks, seed=0, eta=3, least=20)
    else:
        assert Rungs(tasks, seed=0, eta=3, least=20).sizes == sizes


def candidate(number: int, losses: Mapping[int, float], entered: int = 0) -> Candidate:
    return Candidate(number, np.zeros(1), entered, number, [], dict(losses))


def test_the_best_third_of_a_full_rung_climbs_and_nobody_while_a_result_is_missing() -> None:
    bracket = Bracket(0, 9)
    members = [candidate(number, {0: -number / 10}) for number in range(9)]
    first = bracket.climber(members, 2, 3, [])
    assert first is members[8]
    second = bracket.climber(members, 2, 3, [members[8]])
    assert second is members[7]
    assert bracket.climber(members, 2, 3, members[6:]) is None
    for member, loss in zip(members[6:], (0.0, -2.0, math.inf), strict=True):
        assert bracket.climber(members, 2, 3, members[6:]) is None
        member.losses[1] = loss
    assert bracket.climber(members, 2, 3, []) is members[7]
    members[7].losses[2] = 0.0
    assert bracket.climber(members, 2, 3, []) is None


def test_failed_candidates_fill_a_bracket_and_never_climb() -> None:
    bracket = Bracket(0, 3)
    members = [candidate(number, {0: math.inf}) for number in range(3)]
    assert bracket.climber(members, 1, 3, []) is None
    members[1].losses[0] = 5.0
    assert bracket.climber(members, 1, 3, []) is members[1]


def test_candidates_fill_brackets_in_the_order_of_their_numbers_and_the_oldest_bracket_climbs_first() -> None:
    brackets = Brackets([Bracket(0, 3), Bracket(1, 2)], top=1, eta=3)
    told = [candidate(number, {0: 0.0}) for number in (3, 4)]
    assert brackets.entry(told, []) == 0
    assert brackets.entry(told, [5]) == 1
    assert brackets.entry(told, [5, 6, 7]) == 0  # the second bracket is full, the next round begins
    assert brackets.climber(told, [5], []) is None
    late = [*told, candidate(8, {0: -1.0})]  # of the next round, and told before 5
    assert brackets.climber(late, [5, 6, 7], []) is None
    full = [*late, candidate(5, {0: -2.0})]
    assert brackets.climber(full, [6, 7], []) is full[-1]


def followed(optimizer: Hyperband | SuccessiveHalving, n: int) -> list[Proposal]:
    """Proposals where a candidate's loss on every example is its first coordinate, and the start is known."""
    optimizer.inform(Measures(TASKS))
    sizes = [task.n_examples for task in TASKS]
    optimizer.tell(Observation(0, optimizer.start, np.array([0.5]), False, tuple(np.full(n, 0.5) for n in sizes)))
    proposals = []
    for number in range(1, n + 1):
        proposal = optimizer.ask(number)
        proposals.append(proposal)
        x, rows = proposal.x, proposal.rows
        if rows is None:
            told = Observation(number, x, x[:1], examples=tuple(np.full(n, x[0]) for n in sizes))
        else:
            told = Observation(number, x, None, examples=tuple(np.full(len(r), x[0]) for r in rows), rows=rows)
        optimizer.tell(told)
    return proposals


def counts(proposals: list[Proposal]) -> list[tuple[int, bool]]:
    """Number of examples, 0 for all that are left, and whether the trial extends an earlier one."""
    return [(sum(map(len, p.rows or ())), p.extends is not None) for p in proposals]


def test_successive_halving_scores_ever_fewer_candidates_on_ever_more_examples() -> None:
    proposals = followed(SuccessiveHalving(3, 1, 0, least=30), 14)
    assert counts(proposals) == [*[(30, False)] * 9, *[(60, True)] * 3, (0, True), (30, False)]
    entered = sorted(p.x[0] for p in proposals[:9])
    assert [p.x[0] for p in proposals[9:12]] == entered[:3]
    assert proposals[12].x[0] == entered[0]
    assert proposals[12].extends == 10


def test_hyperband_enters_on_every_rung_in_turn() -> None:
    proposals = followed(Hyperband(3, 1, 0, least=30), 23)
    assert counts(proposals) == [
        *[*[(30, False)] * 9, *[(60, True)] * 3, (0, True)],
        *[*[(90, False)] * 5, (0, True)],
        *[(0, False)] * 3,
        (30, False),
    ]


def test_the_sizes_of_the_rungs_are_said_once_they_are_known() -> None:
    optimizer = Hyperband(3, 1, 0, least=30)
    assert optimizer.decisions() == ()
    optimizer.inform(Measures(TASKS))
    assert optimizer.decisions() == (
        "Candidates are scored on 30, 90 and 270 search examples, the better ones on more",
    )


def test_the_start_is_the_first_candidate_unless_it_is_known() -> None:
    start = np.full(3, 0.25)
    fresh, told = (SuccessiveHalving(3, 1, 0, start) for _ in range(2))
    for optimizer in (fresh, told):
        optimizer.inform(Measures(TASKS))
    told.tell(Observation(0, start, None, False))
    assert fresh.ask(1).x.tolist() == start.tolist()
    assert told.ask(1).x.tolist() == fresh.ask(1, {0: start}).x.tolist() != start.tolist()


@pytest.mark.parametrize("options", [{"eta": 1}, {"least": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptimizerError, match=f"{next(iter(options))} must be at least"):
        Hyperband(3, 1, 0, **options)


def test_a_search_whose_parts_cannot_be_compared_is_refused() -> None:
    with pytest.raises(OptimizerError, match="one value per model"):
        Hyperband(3, 1, 0).inform(Measures(TASKS, no_parts="latency gives one value per model."))
