"""`_portfolio`: each method has its own coordinates and history; those that fall behind are set aside."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest

from evomerge.optimizers._portfolio import GradientPortfolio, Portfolio, check_inner
from evomerge.optimizers.auto import Auto
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.random import RandomSearch as Random
from evomerge.optimizers.tpe import Tpe
from evomerge.plugins import PluginSpec
from tests.contracts.optimizer import OptimizerContract
from tests.contracts.parts import PartsContract


def made(
    kind: type[Optimizer],
    portfolio: type[Portfolio],
    dimension: int,
    n_objectives: int = 1,
    seed: int = 0,
    start: FloatArray | None = None,
    n_methods: int = 2,
    **options: Any,
) -> Portfolio:
    """A portfolio whose methods share the coordinates after the first."""
    sizes = [len(part) for part in np.array_split(np.arange(dimension - 1), min(n_methods, dimension - 1))]
    build = partial(_built, kind, n_objectives, seed)
    methods = {f"m{number}": size for number, size in enumerate(sizes)}
    return portfolio(methods, n_objectives, seed, start, build=build, **options)


def _built(kind: type[Optimizer], n_objectives: int, seed: int, dimension: int, start: FloatArray) -> Optimizer:
    return kind(dimension, n_objectives, seed, start)


class TestPortfolio(OptimizerContract):
    plugin = Portfolio
    shapes = ((7, 1), (57, 1))
    n_trials = 40

    def make(self, shape: tuple[int, int], seed: int = 0, start: FloatArray | None = None) -> Optimizer:
        return made(CmaEs, Portfolio, shape[0], shape[1], seed, start)


class TestPortfolioOfFronts(OptimizerContract):
    plugin = Portfolio
    shapes = ((7, 2),)

    def make(self, shape: tuple[int, int], seed: int = 0, start: FloatArray | None = None) -> Optimizer:
        return made(Tpe, Portfolio, shape[0], shape[1], seed, start)


class TestGradientPortfolio(PartsContract):
    plugin = GradientPortfolio
    dimensions: ClassVar[tuple[int, ...]] = (3, 9)
    n_trials = 150
    ends = True

    def make(self, dimension: int, seed: int = 0, start: FloatArray | None = None) -> Optimizer:
        return made(Auto, GradientPortfolio, dimension, self.n_objectives, seed, start)


def search(optimizer: Portfolio, losses: Any, n_trials: int) -> list[int]:
    """Search by the loss of a method's own coordinates, (method, x) -> loss or None; return the methods in turn."""
    chosen = []
    for number in range(n_trials):
        x = optimizer.ask(number).x
        method = int(x[0] * len(optimizer._arms))
        chosen.append(method)
        loss = losses(method, x[optimizer._arms[method].part])
        optimizer.tell(Observation(number, x, None if loss is None else np.array([loss])))
    return chosen


def test_the_better_method_gets_the_budget_and_the_log_says_why() -> None:
    optimizer = made(CmaEs, Portfolio, 10, n_methods=3)
    floors = (0.5, 0.1, 0.3)
    chosen = search(optimizer, lambda method, x: floors[method] + np.mean((x - 0.3) ** 2), 150)
    assert chosen[:6] == [0, 1, 2, 0, 1, 2]  # in turn, until each has enough to judge
    assert chosen.count(1) > 100
    assert set(chosen[-50:]) == {1}
    said = optimizer.decisions()
    assert any(text.startswith("m0 is set aside after") for text in said)
    assert all("behind m1" in text for text in said if "aside" in text)


def test_a_method_that_rises_later_is_kept_while_it_gains() -> None:
    """The second method begins far behind, and gains a constant amount with each of its candidates."""
    optimizer = made(Random, Portfolio, 3)
    plays = [0, 0]

    def loss(method: int, x: FloatArray) -> float:
        plays[method] += 1
        return 0.5 if method == 0 else 2.0 - 0.02 * plays[1]

    chosen = search(optimizer, loss, 300)
    assert chosen[-1] == 1
    assert optimizer._leader == 1
    flat = made(Random, Portfolio, 3)
    assert search(flat, lambda method, x: (0.5, 2.0)[method], 300).count(1) == 17


def test_a_method_without_scores_is_set_aside() -> None:
    optimizer = made(CmaEs, Portfolio, 5)
    chosen = search(optimizer, lambda method, x: None if method == 0 else 0.2, 100)
    assert chosen.count(0) == 16
    assert optimizer.decisions() == ("m0 is set aside after 16 evaluations: none of its candidates has a score",)


def test_other_methods_coordinates_stay_at_their_start() -> None:
    start = np.array([0.25, 0.1, 0.2, 0.8, 0.9])
    optimizer = made(CmaEs, Portfolio, 5, start=start)
    points = [optimizer.ask(number).x for number in range(1)]
    assert points[0][3:].tolist() == [0.8, 0.9]
    assert points[0][0] == 0.25


def test_each_method_learns_its_own_baselines() -> None:
    optimizer = made(CmaEs, Portfolio, 5)
    x = np.array([0.75, 0.5, 0.5, 0.123, 0.321])
    optimizer.tell(Observation(0, x, np.array([0.1]), proposed=False))
    told = [list(arm.optimizer._told.values()) for arm in optimizer._arms]
    assert not told[0]
    assert told[1][0].x.tolist() == [0.123, 0.321]


def test_an_estimate_on_part_of_the_examples_is_no_gain() -> None:
    optimizer = made(CmaEs, Portfolio, 5)
    x = optimizer.ask(0).x
    optimizer.tell(Observation(0, x, np.array([-9.0]), share=0.3))
    assert optimizer._value(optimizer._arms[0].losses()) == -np.inf
    assert optimizer._arms[0].spent == pytest.approx(0.3)


def test_several_slots_search_the_methods_side_by_side() -> None:
    optimizer = made(CmaEs, Portfolio, 9, n_methods=4)
    pending: dict[int, FloatArray] = {}
    for number in range(4):
        pending[number] = optimizer.ask(number, pending).x
    assert [int(4 * x[0]) for x in pending.values()] == [0, 1, 2, 3]


def test_when_one_method_is_exhausted_the_others_go_on() -> None:
    class Nothing(Random):
        def _ask(self, number: int, pending: Any) -> Proposal:
            return Proposal(np.zeros(self.dimension))

        def _steps(self) -> Any:
            return ()

    optimizer = made(Random, Portfolio, 5)
    optimizer._arms[0].optimizer = Nothing(2, 1, 0)
    optimizer.identify(lambda x: x.tobytes() if x[0] > 0.5 else b"same")
    chosen = search(optimizer, lambda method, x: 0.5, 10)
    assert chosen == [0, *[1] * 9]


@pytest.mark.parametrize("name", ["asha", "hyperband", "dehb", "mobster", "successive_halving", "greedy_soup"])
def test_optimizers_that_leave_no_choice_are_refused_by_name(name: str) -> None:
    with pytest.raises(OptimizerError, match=f"{name} .*Use auto"):
        check_inner(PluginSpec(name))
