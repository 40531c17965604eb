"""`greedy_soup` keeps the optimizers' contract, and cooks as the paper says."""

from pathlib import Path

import numpy as np
import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.config import load_config
from evomerge.launch import launch
from evomerge.launch.plan import LaunchError, prepare
from evomerge.optimizers.base import FloatArray, Observation
from evomerge.optimizers.greedy_soup import GreedySoup
from evomerge.study import Study
from tests.contracts.optimizer import OptimizerContract
from tests.toys import search_file


class TestGreedySoup(OptimizerContract):
    plugin = GreedySoup


def test_trials_that_are_no_points_of_the_space_cost_nothing() -> None:
    optimizer = GreedySoup(3, 1, 0, np.full(3, 1 / 3))
    optimizer.tell(Observation(1, np.full(3, 1 / 3), np.array([1.0])))
    asked = []
    for number in range(12, 15):
        asked.append(optimizer.ask(number).x)
        optimizer.tell(Observation(number, asked[-1], np.array([1.0])))
    assert sorted(x.tolist() for x in asked) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


VALUES = np.array([3.0, -1.0, 0.5, 1.5, -4.0])


def loss_of(x: FloatArray) -> float:
    """Squared distance of the members' mean from zero: not monotone in the members."""
    return float(np.square(VALUES[x > 0].mean()))


def soup(losses: dict[frozenset[int], float], strict: bool = True) -> frozenset[int]:
    """The recipe: best first, each one added if the average gets better."""
    order = sorted(range(5), key=lambda model: (losses[frozenset([model])], model))
    members = frozenset(order[:1])
    for model in order[1:]:
        old, new = losses[members], losses[members | {model}]
        if new < old or (new == old and not strict):
            members |= {model}
    return members


def every_loss() -> dict[frozenset[int], float]:
    subsets = [frozenset(i for i in range(5) if bits >> i & 1) for bits in range(1, 32)]
    return {members: loss_of(np.array([float(i in members) for i in range(5)])) for members in subsets}


def cook(optimizer: GreedySoup, n_trials: int) -> list[frozenset[int]]:
    asked = []
    for number in range(n_trials):
        x = optimizer.ask(number).x
        asked.append(frozenset(np.flatnonzero(x == 1).tolist()) if set(x.tolist()) <= {0.0, 1.0} else frozenset())
        optimizer.tell(Observation(number, x, np.array([loss_of(x)])))
    return asked


@pytest.mark.parametrize("seed", range(3))
def test_every_model_alone_then_the_soup(seed: int) -> None:
    asked = cook(GreedySoup(5, 1, seed), 12)
    assert sorted(map(sorted, asked[:5])) == [[0], [1], [2], [3], [4]]
    # Alone: 2 (0.25), 1 (1), 3 (2.25), 0 (9), 4 (16). With 1: 0.0625, stays; with 3: 0.11, goes; ...
    assert [sorted(members) for members in asked[5:9]] == [[1, 2], [1, 2, 3], [0, 1, 2], [1, 2, 4]]
    assert min(asked[:9], key=lambda members: every_loss()[members]) == soup(every_loss()) == frozenset([1, 2])
    assert asked[9:] == [frozenset()] * 3  # random weights


def test_it_wants_no_more_when_the_soup_is_built() -> None:
    optimizer = GreedySoup(5, 1, 0)
    pending: dict[int, FloatArray] = {}
    number = 0
    while optimizer.wants(pending) or pending:
        while optimizer.wants(pending) and len(pending) < 2:
            pending[number] = optimizer.ask(number, pending).x
            assert set(pending[number].tolist()) == {0.0, 1.0}, "no random weights before the end"
            number += 1
        done = min(pending)
        optimizer.tell(Observation(done, pending[done], np.array([loss_of(pending.pop(done))])))
    assert 9 <= number <= 12


def test_it_wants_the_other_answer_of_what_is_pending_and_no_more() -> None:
    optimizer = GreedySoup(2, 1, 0)
    for model in range(2):
        optimizer.tell(Observation(model, np.eye(2)[model], np.array([float(model)]), proposed=False))
    assert optimizer.wants({})
    assert not optimizer.wants({2: np.ones(2)})


def test_an_equal_loss_is_no_better_unless_asked_for() -> None:
    def sizes(strict: bool) -> list[int]:
        optimizer = GreedySoup(4, 1, 0, strict=strict)
        found = []
        for number in range(7):
            x = optimizer.ask(number).x
            found.append(int(x.sum()))
            optimizer.tell(Observation(number, x, np.zeros(1)))
        return found

    assert sizes(strict=True) == [1, 1, 1, 1, 2, 2, 2]
    assert sizes(strict=False) == [1, 1, 1, 1, 2, 3, 4]


@pytest.mark.parametrize("slots", [2, 3, 6])
def test_slots_try_both_answers_and_end_at_the_same_soup(slots: int) -> None:
    optimizer = GreedySoup(5, 1, 0)
    random = np.random.default_rng(slots)
    pending: dict[int, FloatArray] = {}
    known: dict[frozenset[int], float] = {}
    for number in range(50):
        x = optimizer.ask(number, pending).x
        assert x.tolist() not in [other.tolist() for other in pending.values()]
        pending[number] = x
        while len(pending) == slots or (number > 40 and pending):
            done = int(random.choice(sorted(pending)))
            x = pending.pop(done)
            optimizer.tell(Observation(done, x, np.array([loss_of(x)])))
            if set(x.tolist()) <= {0.0, 1.0}:
                members = frozenset(np.flatnonzero(x).tolist())
                assert members not in known
                known[members] = loss_of(x)
    assert soup(known) == frozenset([1, 2])  # raises KeyError where a loss on the way is missing


def test_what_may_be_asked_for_next_while_an_answer_is_pending() -> None:
    optimizer = GreedySoup(3, 1, 0)
    for model in range(3):
        optimizer.tell(Observation(model, np.eye(3)[model], np.array([float(model)])))
    pending = {3: np.array([1.0, 1.0, 0.0])}
    assert optimizer.ask(4, pending).x.tolist() == [1, 1, 1]  # if it is better
    pending[4] = np.array([1.0, 1.0, 1.0])
    assert optimizer.ask(5, pending).x.tolist() == [1, 0, 1]  # if it is not


def test_failures_leave_a_model_out() -> None:
    optimizer = GreedySoup(3, 1, 0)
    losses = {(1, 0, 0): 1.0, (0, 1, 0): None, (0, 0, 1): 2.0, (1, 0, 1): None}
    asked = []
    for number in range(4):
        x = optimizer.ask(number).x
        asked.append(tuple(int(value) for value in x))
        loss = losses[asked[-1]]
        optimizer.tell(Observation(number, x, None if loss is None else np.array([loss])))
    assert asked[3] == (1, 0, 1)
    assert not set(optimizer.ask(4).x.tolist()) <= {0.0, 1.0}


def test_baselines_are_not_tried_again() -> None:
    optimizer = GreedySoup(2, 1, 0)
    for number, x in enumerate(([1.0, 0.0], [0.0, 1.0], [0.5, 0.5])):
        optimizer.tell(Observation(number, np.array(x), np.array([float(number)]), proposed=False))
    assert optimizer.ask(3).x.tolist() == [1, 1]


def search(folder: Path, **changes: object) -> Path:
    file = folder / "search.yaml"
    settings = {"method": "linear", "space": "uniform", "optimizer": "greedy_soup", "budget": {"trials": 12}}
    file.write_text(strict_yaml.dump(search_file(folder, **{**settings, **changes})))
    return file


def test_a_coordinate_for_each_model_and_no_more(tmp_path: Path) -> None:
    prepare(load_config(search(tmp_path)))
    for changes in ({"space": "simplex"}, {"space": "layerwise"}, {"method": "ties"}):
        with pytest.raises(LaunchError, match=r"greedy_soup chooses among models, .* each of the 2; there are"):
            prepare(load_config(search(tmp_path, **changes)))


@pytest.mark.parametrize("trials", [40, 8])
def test_a_search_ends_with_the_soup_and_counts_the_parents_as_its_singles(tmp_path: Path, trials: int) -> None:
    config = load_config(search(tmp_path, budget={"trials": trials}))
    ending, _ = launch.run(config, prepare(config), resume=False)
    assert ending.kind == "done"
    study = Study.read(Path(config.study))
    asked = [entry.trial for entry in study.entries.values() if entry.trial.split == "search"]
    points = {trial.label: None if trial.x is None else trial.x.tolist() for trial in asked}
    assert (points["parent:a"], points["parent:b"], points["base"]) == ([1, 0], [0, 1], None)
    proposed = [trial.x.tolist() for trial in asked if trial.label == "search" and trial.x is not None]
    assert proposed == ([[1, 1]] if trials == 40 else [])
