"""`gradient_front`, and `auto` for fronts: preferences, warm starts, the check of the first point, and resuming."""

import numpy as np
import pytest

from evomerge.optimizers._sweep import Sweep
from evomerge.optimizers.auto import Auto
from evomerge.optimizers.base import Observation, Optimizer, OptimizerError, Proposal
from evomerge.optimizers.gradient_front import GradientFront
from evomerge.optimizers.map import Map
from evomerge.statistics.pareto import hypervolume
from tests.contracts.parts import PartsContract
from tests.evomerge.optimizers.gradients import Run, World


class FrontWorld(World):
    """Every task is an objective of its own, and the optima of the tasks lie apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for task, examples in enumerate(self.examples):
            examples[:, task :: len(self.sizes)] -= 0.5

    def observed(self, number: int, proposal: Proposal, *, proposed: bool = True) -> Observation:
        told = super().observed(number, proposal, proposed=proposed)
        if told.losses is None:
            return told
        means = np.array([wrong.mean() for wrong in told.examples])
        return Observation(number, told.x, means, proposed, told.examples)


class TestGradientFront(PartsContract):
    plugin = GradientFront
    n_objectives = 2
    n_trials = 400
    ends = True


def made(kind: type[Optimizer], world: World) -> Optimizer:
    return kind(world.dimension, len(world.sizes), 0, np.full(world.dimension, 0.3))


def swept(optimizer: Optimizer) -> bool:
    """Whether every preference has its point; `auto` goes on from there with `map`."""
    return not optimizer.wants({}) or any("map completes the front" in said for said in optimizer.decisions())


def searched(kind: type[Optimizer], world: World, most: float = 100) -> tuple[Optimizer, Run]:
    optimizer = made(kind, world)
    optimizer.inform(world.measures)
    found = Run([], [], 0.0)
    for number, x in enumerate((optimizer.start, np.full(world.dimension, 0.4))):
        found.observations.append(world.observed(number, Proposal(x), proposed=False))
        optimizer.tell(found.observations[-1])
    while found.cost < most and not swept(optimizer):
        number = len(found.observations)
        proposal = optimizer.ask(number)
        found.proposals.append(proposal)
        found.cost += world.cost(proposal)
        found.observations.append(world.observed(number, proposal))
        optimizer.tell(found.observations[-1])
    return optimizer, found


@pytest.mark.parametrize(("n_tasks", "n_preferences"), [(2, 5), (3, 10), (4, 21)])
def test_the_lattice_has_its_center_first_and_every_task_alone(n_tasks: int, n_preferences: int) -> None:
    world = FrontWorld(sizes=(40,) * n_tasks)
    sweep = Sweep(np.full(12, 0.3), world.measures, np.full(n_tasks, 1 / n_tasks), 0)
    assert len(sweep.preferences) == n_preferences
    assert sweep.preferences[0] == pytest.approx(np.full(n_tasks, 1 / n_tasks))
    assert all(weights.sum() == pytest.approx(1) and weights.min() > 0 for weights in sweep.preferences)
    for task in range(n_tasks):
        assert max(weights[task] for weights in sweep.preferences) > 0.95


def test_a_preference_of_the_user_moves_the_center() -> None:
    world = FrontWorld(sizes=(40, 40))
    optimizer = made(GradientFront, world)
    optimizer.prefer([3.0, 1.0])
    optimizer.inform(world.measures)
    assert optimizer.ask(2).gradient == pytest.approx((0.75, 0.25))


@pytest.mark.parametrize("kind", [GradientFront, Auto])
def test_every_preference_gets_a_point_at_the_stated_cost(kind: type[Optimizer]) -> None:
    world = FrontWorld(sizes=(120, 120, 120))
    optimizer, found = searched(kind, world)
    points = found.whole
    assert len(points) == 10
    assert found.cost == pytest.approx(4 + 9 * 2 + 10, abs=2)
    assert optimizer.wants({}) == (kind is Auto)
    losses = np.array([told.losses for told in points])
    front = np.array([row for row in losses if not ((losses <= row).all(1) & (losses < row).any(1)).any()])
    assert len(front) >= 4
    assert hypervolume(losses, np.ones(3)) > hypervolume(losses[:1], np.ones(3)) * 1.05


def test_a_descent_begins_at_the_nearest_point_that_is_there() -> None:
    world = FrontWorld(sizes=(60, 60))
    _, found = searched(GradientFront, world)
    ends = [i for i, proposal in enumerate(found.proposals) if proposal.rows is None]
    solved = [found.proposals[end].x.tolist() for end in ends]
    for end in ends[:-1]:
        assert found.proposals[end + 1].x.tolist() in solved


def test_auto_searches_a_front_by_black_box_where_the_first_point_says_that_the_losses_mislead() -> None:
    world = FrontWorld(hostile=frozenset({"task0", "task1"}))
    optimizer, found = searched(Auto, world, 20)
    assert "does not follow the metric" in optimizer.decisions()[-1]
    assert len(found.whole) > 10
    assert optimizer.wants({9: np.zeros(12)})


def test_auto_completes_a_front_with_map_which_learns_from_the_descents() -> None:
    world = FrontWorld(sizes=(60, 60))
    optimizer, found = searched(Auto, world)
    assert "completes the front" in optimizer.decisions()[-1]
    assert optimizer.why_no_predictions()
    numbers = range(len(found.observations), len(found.observations) + 12)
    for number in numbers:
        proposal = optimizer.ask(number)
        assert proposal.is_whole_candidate
        optimizer.tell(world.observed(number, proposal))
    assert optimizer.predictions()
    lone = Map(world.dimension, 2, 0, optimizer.start)
    lone.inform(world.measures)
    for told in (*found.observations[:2], *found.whole):
        lone.tell(told)
    assert lone.ask(numbers[0]).x.tolist() == made_after(found, world).ask(numbers[0]).x.tolist()


def made_after(found: Run, world: World) -> Optimizer:
    """An `auto` that was told all of a run."""
    optimizer = made(Auto, world)
    optimizer.inform(world.measures)
    for observation in found.observations:
        optimizer.tell(observation)
    return optimizer


def test_a_task_without_a_loss_is_refused_by_the_front_and_searched_by_auto() -> None:
    world = FrontWorld(blind=frozenset({"task1"}))
    with pytest.raises(OptimizerError, match=r"task1 has no differentiable loss.*auto"):
        made(GradientFront, world).inform(world.measures)
    optimizer = made(Auto, world)
    optimizer.inform(world.measures)
    assert optimizer.ask(2).rows is None
    assert "task1 has no differentiable loss" in optimizer.decisions()[0]


@pytest.mark.parametrize("kind", [GradientFront, Auto])
def test_a_resume_continues_exactly_where_it_stopped(kind: type[Optimizer]) -> None:
    world = FrontWorld()
    _, found = searched(kind, world)
    for told in range(2, len(found.observations), 11):
        resumed = made(kind, world)
        resumed.inform(world.measures)
        for observation in found.observations[:told]:
            resumed.tell(observation)
        again, before = resumed.ask(told), found.proposals[told - 2]
        assert again.x.tolist() == before.x.tolist()
        assert (again.rows, again.gradient) == (before.rows, before.gradient)


@pytest.mark.parametrize("kind", [GradientFront, Auto])
@pytest.mark.parametrize("slots", [2, 4])
def test_several_workers_are_busy_and_find_the_points_of_one_worker(kind: type[Optimizer], slots: int) -> None:
    world = FrontWorld(sizes=(60, 60, 60))
    _, alone = searched(kind, world)
    optimizer = made(kind, world)
    optimizer.inform(world.measures)
    for observation in alone.observations[:2]:
        optimizer.tell(observation)
    rng = np.random.default_rng(0)
    running: dict[int, Proposal] = {}
    points, most, number = set(), 0, 2
    while running or not swept(optimizer):
        while not swept(optimizer) and len(running) < slots and optimizer.wants({n: p.x for n, p in running.items()}):
            running[number] = optimizer.ask(number, {n: p.x for n, p in running.items()})
            number += 1
        most = max(most, len(running))
        ended = int(rng.choice(list(running)))
        told = world.observed(ended, running.pop(ended))
        optimizer.tell(told)
        if told.rows is None:
            points.add(tuple(told.x))
    assert most == slots
    assert points == {tuple(told.x) for told in alone.whole}


def test_siblings_that_begin_at_one_point_run_at_once_and_are_told_apart_by_their_examples() -> None:
    world = FrontWorld(sizes=(60, 60, 60))
    sweep = Sweep(np.full(12, 0.3), world.measures, np.full(3, 1 / 3), 0)
    while not sweep.center.finished:
        assert sweep.ask({0: sweep.center.x}) is None
        proposal = sweep.ask({})
        assert proposal is not None
        sweep.take(world.observed(1, proposal))
    sweep.solve(sweep.center.x)
    pending: dict[int, Proposal] = {}
    while (proposal := sweep.ask({n: p.x for n, p in pending.items()})) is not None:
        pending[len(pending)] = proposal
    assert len(pending) > 1
    assert len({tuple(p.x) for p in pending.values()}) == 1
    assert len({p.gradient for p in pending.values()}) == len(pending)
    last = max(pending)
    sweep.take(world.observed(last, pending.pop(last)))
    again = sweep.ask({n: p.x for n, p in pending.items()})
    assert again is not None
    assert again.x.tolist() != sweep.center.x.tolist()
