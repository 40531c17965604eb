"""`auto`: which stages follow which findings, what each decision says, and a resume from any moment."""

import numpy as np
import pytest

from evomerge.optimizers.auto import Auto
from evomerge.optimizers.base import Measures, Observation
from tests.contracts.parts import PartsContract
from tests.evomerge.optimizers.gradients import Run, World, run

COARSE = (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
START = 0.3


class TestAuto(PartsContract):
    plugin = Auto
    n_trials = 150
    ends = True
    learns = True
    budget = 40.0


def made(world: World, seed: int = 0) -> Auto:
    return Auto(world.dimension, 1, seed, np.full(world.dimension, START))


def searched(world: World, most: float = 200.0) -> tuple[Auto, Run]:
    optimizer = made(world)
    return optimizer, run(optimizer, world, most)


def test_blocks_come_first_then_tensors_then_one_long_descent() -> None:
    world = World(sizes=(150, 90), coarse=COARSE)
    optimizer, found = searched(world)
    ends = found.whole
    assert len(ends) == 3
    for group in range(4):
        members = [i for i, g in enumerate(COARSE) if g == group]
        assert len(set(ends[0].x[members].tolist())) == 1
        assert len(set(ends[1].x[members].tolist())) == 3
    assert found.cost == pytest.approx(5 + 1 + 5 + 1 + 25 + 1, abs=1)
    assert world.score(ends[1].x) > world.score(np.full(world.dimension, START)) + 0.3
    assert not optimizer.wants({})
    said = optimizer.decisions()
    assert said[0].startswith("Gradients on task0, task1")
    assert "in coarse groups" in said[1]
    assert "in all groups" in said[2]
    assert "at length" in said[3]
    assert "The search ends" in said[4]


def test_without_larger_groups_there_is_one_stage_before_the_long_one() -> None:
    optimizer, found = searched(World())
    assert len(found.whole) == 2
    assert "in coarse groups" not in " ".join(optimizer.decisions())


def test_a_misleading_loss_hands_over_to_black_box_search_from_the_best_baseline() -> None:
    world = World(hostile=frozenset({"task0", "task1"}), coarse=COARSE)
    optimizer, found = searched(world, 60)
    assert "does not follow the metric on task0, task1: black-box search" in optimizer.decisions()[-1]
    later = [proposal for proposal in found.proposals if proposal.rows is None][1:]
    assert len(later) > 40
    for proposal in later[:10]:  # in coarse groups
        assert len(set(proposal.x[:3].tolist())) == 1
    assert optimizer.recommend() is not None


def test_descents_that_stay_below_a_baseline_hand_over_to_black_box_search_from_it() -> None:
    world = World(coarse=COARSE)
    optimizer = made(world)
    ahead = np.full(world.dimension, 0.75)
    optimizer.tell(Observation(999, ahead, np.array([-1.0]), False))
    found = run(optimizer, world, 60)
    said = optimizer.decisions()
    assert said[-1].startswith("A baseline scores higher than every descent: black-box search")
    assert not any("at length" in text for text in said)
    later = found.whole[2:]  # the ends of both descents come first
    assert len(later) > 40
    assert np.mean([told.x for told in later[:10]], axis=0) == pytest.approx(ahead, abs=0.15)


def test_a_descent_that_changes_no_score_hands_over_to_black_box_search() -> None:
    world = World(coarse=COARSE)
    world.thresholds = [np.full(size, -1.0) for size in world.sizes]  # no example is ever right
    optimizer, found = searched(world, 15)
    assert "No example is scored differently: black-box search" in optimizer.decisions()[-1]
    assert len(found.whole) > 5


def test_gradients_that_all_fail_end_the_descent() -> None:
    world = World(coarse=COARSE)
    optimizer = made(world)
    optimizer.inform(world.measures)
    for number in range(2, 5):
        proposal = optimizer.ask(number)
        assert proposal.gradient is not None
        optimizer.tell(Observation(number, proposal.x, None, rows=proposal.rows))
    assert optimizer.ask(5).rows is None
    assert "The first 3 gradients failed" in optimizer.decisions()[-1]


@pytest.mark.parametrize("why", ["no loss", "no gradient"])
def test_without_losses_or_gradients_it_is_black_box_search_and_says_why(why: str) -> None:
    world = World(blind=frozenset({"task0", "task1"}) if why == "no loss" else frozenset())
    optimizer = made(world)
    measures = world.measures
    if why == "no gradient":
        measures = Measures(measures.tasks, no_gradient="ties has none.")
    optimizer.inform(measures)
    assert optimizer.ask(3).rows is None
    assert optimizer.wants({3: np.zeros(12)})  # any number of workers
    reason = "differentiable loss" if why == "no loss" else "ties has none."
    assert reason in optimizer.decisions()[0]


def test_a_task_without_a_loss_is_searched_around_the_best_point() -> None:
    world = World(blind=frozenset({"task1"}), coarse=COARSE)
    optimizer, found = searched(world, 60)
    assert "around the best point, since task1 has no differentiable loss" in optimizer.decisions()[-1]
    best = min(found.whole[:2], key=lambda told: told.losses[0] if told.losses is not None else np.inf)
    later = [told.x for told in found.whole[2:]]
    assert len(later) > 30
    assert np.abs(later[0] - best.x).max() < 0.25


def test_the_finer_point_is_kept_only_if_the_metric_says_so() -> None:
    world = World(sizes=(150, 90), coarse=COARSE)
    optimizer = made(world)
    optimizer.inform(world.measures)
    number, ends = 2, []
    for told, x in enumerate((optimizer.start, np.full(world.dimension, 0.4))):
        optimizer.tell(world.observed(told, type(optimizer.ask(99))(x), proposed=False))
    while len(ends) < 2:
        proposal = optimizer.ask(number)
        told_of = world.observed(number, proposal)
        if proposal.rows is None:
            ends.append(told_of)
            if len(ends) == 2:  # the finer point scores worse
                told_of = world.observed(number, type(proposal)(np.full(world.dimension, 0.45)))
        optimizer.tell(told_of)
        number += 1
    assert "The earlier point scores at least as high and is kept" in optimizer.decisions()[2]
    long = optimizer.ask(number)
    assert long.x.tolist() == optimizer.start.tolist()
    optimizer.tell(world.observed(number, long))
    assert len(set(optimizer.ask(number + 1).x[:3].tolist())) == 1  # in the coarse groups, which were better


@pytest.mark.parametrize(
    "world",
    [
        World(coarse=COARSE),
        World(hostile=frozenset({"task0", "task1"}), coarse=COARSE),
        World(blind=frozenset({"task1"}), coarse=COARSE),
    ],
    ids=["losses", "hostile", "blind"],
)
def test_a_resume_goes_on_exactly_where_it_stopped(world: World) -> None:
    whole, found = searched(world, 30)
    for told in range(2, len(found.observations), 7):
        resumed = made(world)
        resumed.inform(world.measures)
        for observation in found.observations[:told]:
            resumed.tell(observation)
        again, before = resumed.ask(told), found.proposals[told - 2]
        assert again.x.tolist() == before.x.tolist()
        assert (again.rows, again.gradient) == (before.rows, before.gradient)
        assert whole.decisions()[: len(resumed.decisions())] == resumed.decisions()
