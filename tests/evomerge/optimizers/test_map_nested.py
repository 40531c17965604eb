"""`map_nested` keeps the optimizers' contract, and merges whom it is said to merge."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.config import SearchConfig, load_config
from evomerge.launch import launch
from evomerge.launch.plan import LaunchError, prepare
from evomerge.optimizers.base import FloatArray, Observation, OptimizerError
from evomerge.optimizers.map_nested import MapNested
from evomerge.study import Study
from tests.contracts.optimizer import OptimizerContract
from tests.toys import search_file


class TestMapNested(OptimizerContract):
    plugin = MapNested
    options = {"points": 8}  # noqa: RUF012 - read only
    shapes = ((1, 1), (2, 1), (4, 2))


#: Models 0 and 2 alone are equally far from the optimum, 1 and 3 are not: 0 and 2 are merged first.
OPTIMUM = np.array([0.6, 0.2, 0.6, 0.9])


def bowl(x: FloatArray) -> FloatArray:
    """Losses that a merge reaches when every pair is merged at its best, without noise."""
    return np.array([np.square(x - OPTIMUM).sum()])


def run(optimizer: MapNested, loss: Callable[[FloatArray], FloatArray | None], limit: int = 200) -> list[FloatArray]:
    asked: list[FloatArray] = []
    while len(asked) < limit and optimizer.wants({}):
        asked.append(optimizer.ask(len(asked)).x)
        optimizer.tell(Observation(len(asked) - 1, asked[-1], loss(asked[-1])))
    return asked


def test_the_closest_pair_first_and_the_optimum_of_all_at_the_end() -> None:
    asked = np.array(run(MapNested(4, 1, 0, points=12), bowl))
    assert len(asked) == 4 + 3 * 11
    assert asked[:4].tolist() == np.eye(4).tolist()
    assert (asked[4:15, [1, 3]] == 0.0).all()  # the square of models 0 and 2, and its minimum
    np.testing.assert_allclose(asked[14], [0.6, 0.0, 0.6, 0.0], atol=0.03)
    np.testing.assert_allclose(asked[-1], OPTIMUM, atol=0.05)
    # Whoever comes next, models 0 and 2 stay together.
    ratio = asked[15:, 0] / np.where(asked[15:, 2] > 0.0, asked[15:, 2], 1.0)
    assert np.isin(ratio.round(6), [0.0, round(float(asked[14, 0] / asked[14, 2]), 6)]).all()


def test_the_preference_chooses_the_point_of_a_square() -> None:
    """Two tasks that want one coefficient each at 1 and the other at 0."""

    def tasks(x: FloatArray) -> FloatArray:
        return np.array([np.square(x - [1.0, 0.0]).sum(), np.square(x - [0.0, 1.0]).sum()])

    ends = []
    for preference in ([3.0, 1.0], [1.0, 1.0], [1.0, 3.0]):
        optimizer = MapNested(2, 2, 0, points=10)
        optimizer.prefer(preference)
        ends.append(run(optimizer, tasks)[-1])
    np.testing.assert_allclose(ends, [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], atol=0.03)


def test_what_was_told_before_is_not_evaluated_again() -> None:
    optimizer = MapNested(4, 1, 0, points=12)
    for number, x in enumerate(np.eye(4), start=1000):
        optimizer.tell(Observation(number, x, bowl(x), proposed=False))
    asked = run(optimizer, bowl)
    assert len(asked) == 3 * 11
    assert min(np.count_nonzero(x) for x in asked) == 2


def test_workers_go_on_with_the_next_pair_and_wait_for_no_other_reason() -> None:
    optimizer = MapNested(4, 1, 0, points=8)
    run(optimizer, bowl, 4)
    pending: dict[int, FloatArray] = {}
    while optimizer.wants(pending):
        pending[4 + len(pending)] = optimizer.ask(4 + len(pending), pending).x
    points = np.array(list(pending.values()))
    assert len(points) == 12
    assert (points[:6][:, [1, 3]] == 0.0).all()
    assert (points[6:][:, [0, 2]] == 0.0).all()
    for number, x in pending.items():
        optimizer.tell(Observation(number, x, bowl(x)))
    minimum = optimizer.ask(20).x
    np.testing.assert_allclose(minimum, [0.6, 0.0, 0.6, 0.0], atol=0.05)
    second = optimizer.ask(21, {20: minimum}).x  # not from 1 and 3 in vain: these are the next pair
    np.testing.assert_allclose(second, [0.0, 0.2, 0.0, 0.9], atol=0.05)


def test_a_model_that_fails_is_left_out_and_a_minimum_that_fails_is_replaced_by_the_best_point() -> None:
    without = run(MapNested(4, 1, 0, points=12), lambda x: None if x[3] > 0.0 else bowl(x))
    assert (np.array(without)[4:, 3] == 0.0).all()
    assert len(without) == 4 + 2 * 11
    alone = run(MapNested(3, 1, 0, points=12), lambda x: None if x[:2].max() == 1.0 else bowl(np.append(x, 0.0)))
    assert len(alone) == 3  # one model is left, and nothing to merge it with

    n_asked = 0

    def failing(x: FloatArray) -> FloatArray | None:
        nonlocal n_asked
        n_asked += 1
        return None if n_asked == 15 else bowl(x)  # the minimum of the first square

    asked = np.array(run(MapNested(4, 1, 0, points=12), failing))
    best = min(asked[4:14], key=lambda x: float(bowl(x)[0]))
    later = asked[(asked[:, 0] > 0.0) & (asked[:, 1] + asked[:, 3] > 0.0)]
    np.testing.assert_allclose(later[:, 0] / later[:, 2], best[0] / best[2])


def test_it_begins_with_the_parents_that_the_search_scored_and_ends_by_itself(tmp_path: Path) -> None:
    def search(ranges: dict[str, list[float]]) -> SearchConfig:
        file = tmp_path / "search.yaml"
        space = {"kind": "uniform", "ranges": ranges}
        settings = search_file(tmp_path, space=space, optimizer={"kind": "map_nested", "points": 8}, objective="pareto")
        file.write_text(strict_yaml.dump(settings))
        return load_config(file)

    with pytest.raises(LaunchError, match=r"weights that end at 0, .* here no end is a model"):
        prepare(search({"weight": [0, 1.5]}))
    config = search({"weight": [0, 1]})
    ending, _ = launch.run(config, prepare(config), resume=False)
    assert ending.kind == "done"
    searched = [entry for entry in Study.read(Path(config.study)).told if entry.trial.label == "search"]
    assert len(searched) == 8 - 1


def test_too_few_points_for_a_quadratic_are_refused() -> None:
    with pytest.raises(OptimizerError, match=r"at least 8; it is 7"):
        MapNested(3, 1, 0, points=7)
