"""`gradient`: the batches, the steps, the guard, and a resume from any moment."""

import numpy as np
import pytest

from evomerge.optimizers._descent import Descent
from evomerge.optimizers.auto import Auto
from evomerge.optimizers.base import Measures, Observation, Optimizer, OptimizerError, Proposal, TaskExamples
from evomerge.optimizers.gradient import Gradient
from tests.contracts.parts import PartsContract
from tests.evomerge.optimizers.gradients import World, run


class TestGradient(PartsContract):
    plugin = Gradient
    ends = True
    learns = True


def made(world: World, seed: int = 0, **options: object) -> Gradient:
    return Gradient(world.dimension, 1, seed, np.full(world.dimension, 0.3), **options)  # type: ignore[arg-type]


def test_it_descends_at_the_cost_that_it_was_given() -> None:
    world = World(sizes=(150, 90))
    found = run(made(world), world)
    assert found.cost == pytest.approx(10 + 2, abs=0.5)  # gradients, and two checks
    steps = [proposal for proposal in found.proposals if proposal.gradient is not None]
    assert 45 <= len(steps) <= 75
    assert world.score(found.whole[-1].x) > world.score(np.full(world.dimension, 0.3)) + 0.3


def test_every_batch_holds_the_tasks_evenly_and_an_epoch_every_example_once() -> None:
    tasks = [TaskExamples("one", 30, 0.5), TaskExamples("two", 20, 0.5), TaskExamples("blind", 9, 0.0, "no loss")]
    descent = Descent(np.full(3, 0.5), tasks, [0.5, 0.5, 0.0], 10, (0,), batch=9)
    seen: list[list[int]] = [[], [], []]
    for _ in range(20):
        rows = descent.rows()
        assert not rows[2]
        assert all(len(chosen) in (3, 4, 5) for chosen in rows[:2])  # 3 where a new epoch repeats one of the batch
        for task, chosen in enumerate(rows):
            seen[task].extend(chosen)
        descent.take(np.zeros(3))
    assert not seen[2]
    for task, size in ((0, 30), (1, 20)):
        counts = np.bincount(seen[task], minlength=size)
        assert counts.max() - counts.min() <= 2
    assert seen[0][:5] != seen[0][30:35]  # another order in the next epoch


def test_the_first_step_is_the_peak_and_the_last_ones_are_small() -> None:
    tasks = [TaskExamples("one", 400, 1.0)]
    descent = Descent(np.full(2, 0.5), tasks, [1.0], 10, (0,))
    sizes = []
    while not descent.finished:
        before = descent.x.copy()
        descent.take(np.array([1.0, -0.001]))
        sizes.append(np.abs(descent.x - before))
    assert sizes[0] == pytest.approx([0.05, 0.05], rel=0.01)  # whatever the size of the gradient
    assert sizes[-1].max() < 0.001
    assert descent.x.tolist() == [0.0, 1.0]


def test_coordinates_of_a_group_take_the_same_steps() -> None:
    tasks = [TaskExamples("one", 400, 1.0)]
    descent = Descent(np.full(3, 0.5), tasks, [1.0], 10, (0,), groups=np.array([0, 0, 1]))
    for _ in range(5):
        descent.take(np.array([3.0, -1.0, 1.0]))
    assert descent.x[0] == descent.x[1]
    assert descent.x[0] < 0.5


@pytest.mark.parametrize("broken", [None, np.array([np.nan, 1.0])])
def test_a_gradient_that_is_missing_or_not_finite_is_skipped_and_counted(broken: np.ndarray | None) -> None:
    tasks = [TaskExamples("one", 400, 1.0)]
    descent, other = (Descent(np.full(2, 0.5), tasks, [1.0], 10, (0,)) for _ in range(2))
    descent.take(broken)
    assert descent.x.tolist() == [0.5, 0.5]
    assert (descent.step, descent.skipped) == (1, 1)
    descent.take(np.array([1.0, 1.0]))
    other.take(np.array([1.0, 1.0]))
    assert np.abs(descent.x - other.x).max() < 1e-4


def test_the_guard_ends_a_descent_that_the_metric_does_not_follow() -> None:
    world = World(hostile=frozenset({"task0", "task1"}))
    optimizer = made(world)
    found = run(optimizer, world)
    assert len(found.whole) == 1  # half-way, and no further
    assert found.cost < 7
    assert "does not follow the metric (task0, task1)" in optimizer.decisions()[-1]


def test_tasks_without_a_loss_are_left_out_of_the_descent_and_named() -> None:
    world = World(blind=frozenset({"task1"}))
    optimizer = made(world)
    found = run(optimizer, world)
    assert all(not proposal.rows[1] for proposal in found.proposals if proposal.rows is not None)
    assert "task1 (it is blind.)" in optimizer.decisions()[0]
    with pytest.raises(OptimizerError, match="No task with a weight has a differentiable loss"):
        made(world).inform(World(blind=frozenset({"task0", "task1"})).measures)
    with pytest.raises(OptimizerError, match=r"masks jump.*auto"):
        made(world).inform(Measures(world.measures.tasks, no_gradient="masks jump."))


def test_a_resume_goes_on_exactly_where_it_stopped() -> None:
    world = World()
    found = run(made(world), world)
    for told in range(2, len(found.observations)):
        resumed = made(world)
        resumed.inform(world.measures)
        for observation in found.observations[:told]:
            resumed.tell(observation)
        again, before = resumed.ask(told), found.proposals[told - 2]
        assert again.x.tolist() == before.x.tolist()
        assert (again.rows, again.gradient) == (before.rows, before.gradient)


def test_another_seed_draws_other_batches() -> None:
    world = World()
    first, other = (run(made(world, seed), world).proposals[0] for seed in (0, 1))
    assert first.rows != other.rows


def test_asks_have_no_effect_and_a_step_waits_for_the_one_before() -> None:
    world = World()
    optimizer = made(world)
    optimizer.inform(world.measures)
    assert optimizer.ask(5).rows == optimizer.ask(5).rows == optimizer.ask(6).rows
    assert not optimizer.wants({5: optimizer.start})


def test_a_failed_check_is_worse_than_any_score() -> None:
    world = World()
    optimizer = made(world)
    optimizer.inform(world.measures)
    optimizer.tell(Observation(0, optimizer.start, np.array([0.5]), False, tuple(world.wrong(optimizer.start))))
    number = 1
    while (proposal := optimizer.ask(number)).rows is not None:
        optimizer.tell(world.observed(number, proposal))
        number += 1
    optimizer.tell(Observation(number, proposal.x, None))
    assert not optimizer.wants({})


@pytest.mark.parametrize("kind", [Gradient, Auto])
def test_where_the_budget_ends_in_a_descent_its_point_is_recommended_and_a_resume_takes_it_for_the_check(
    kind: type[Optimizer],
) -> None:
    world = World(sizes=(150, 90))
    whole = run(kind(world.dimension, 1, 0, np.full(world.dimension, 0.3)), world)
    checks = [i for i, told in enumerate(whole.observations) if told.rows is None and told.proposed]
    for told in (checks[0] - 3, checks[0]):  # in the middle of the steps, and just before the check
        cut = kind(world.dimension, 1, 0, np.full(world.dimension, 0.3))
        cut.inform(world.measures)
        assert cut.recommend() is None
        for observation in whole.observations[:told]:
            cut.tell(observation)
        found = cut.recommend()
        assert found is not None
        assert found.tolist() == whole.proposals[told - 2].x.tolist()
        cut.tell(world.observed(told, Proposal(found), proposed=False))
        following = whole.proposals[told - 2 + (told == checks[0])]
        again = cut.ask(told + 1)
        assert again.x.tolist() == following.x.tolist()
        assert again.rows == following.rows
