import numpy as np
import pytest

from search_spaces.base import CoefficientTable, SearchSpace
from search_spaces.smooth import Smooth
from tests.contracts.search_space import DEEP, SMALL, SearchSpaceContract, expect_error, model

LINE = {"ranges": {"density": [1, 1], "t": [0, 0], "weight": [0, 1]}}


class TestSmooth(SearchSpaceContract):
    space = Smooth

    def test_values_lie_on_straight_lines_between_the_points(self) -> None:
        space = self.build(model(7), points=3, **LINE)
        rows = [n for n, group in enumerate(space.groups) if group.endswith(".mlp")]
        values = space.decode(_at(space, {"mlp.point.0": 0.0, "mlp.point.1": 0.6, "mlp.point.2": 0.3}))
        expected = [0.0, 0.2, 0.4, 0.6, 0.5, 0.4, 0.3]
        np.testing.assert_allclose(values.values["weight"][rows, 0], expected, atol=1e-15)

    def test_the_depth_of_a_point_is_the_mean_over_its_blocks(self) -> None:
        space = self.build(model(5), points=3, **LINE)
        _, depths = space.positions
        names = [f"weight[mlp.point.{n}, math]" for n in range(3)]
        # Blocks lie at 1/6 to 5/6; the first point has all of block 0 and half of block 1.
        expected = [(1 + 0.5 * 2) / 1.5 / 6, 0.5, (5 + 0.5 * 4) / 1.5 / 6]
        np.testing.assert_allclose(depths[[space.names.index(name) for name in names]], expected)

    def test_a_component_changes_alone(self) -> None:
        space = self.build(DEEP)
        before = space.decode(np.full(space.dimension, 0.5)).values["weight"]
        after = space.decode(_at(space, {"attention.point.1": 0.9})).values["weight"]
        changed = [space.groups[row] for row in np.flatnonzero((before != after).any(axis=1))]
        assert changed == [f"block.{n}.attention" for n in range(1, 25)]

    @pytest.mark.parametrize("points", [1, 2, 4, 5, 9])
    def test_no_point_is_without_effect(self, points: int) -> None:
        space = self.build(points=points)
        slots = {name for name in space.names if name.startswith("t[mlp.point.")}
        assert len(slots) == min(points, 5)
        for index in range(space.dimension):
            x = np.full(space.dimension, 0.5)
            x[index] = 0.0
            assert space.decode(x) != space.decode(np.full(space.dimension, 0.5))

    @pytest.mark.parametrize("points", [1, 2, 3, 4, 6, 37, 38])
    def test_every_number_of_points_encodes(self, points: int) -> None:
        space = self.build(DEEP, points=points, freeze={"block.?.mlp": {"weight": 0}})
        x = np.random.default_rng(points).random(space.dimension)
        assert np.abs(space.encode(space.decode(x)) - x).max() <= 1e-9

    def test_a_start_off_the_lines_is_approximated(self) -> None:
        wiggle = [[0.25 if block in (1, 3) else 0.75] for block in SMALL.blocks]
        start = CoefficientTable({name: (name,) for name in SMALL.names}, {"t": np.array(wiggle)})
        space = self.build(points=1, start=start)
        values = space.decode(space.default()).values["t"]
        rows = [n for n, group in enumerate(space.groups) if group.startswith("block.")]
        np.testing.assert_allclose(values[rows], 0.55, atol=1e-12)  # (3 * 0.75 + 2 * 0.25) / 5
        assert (np.delete(values, rows) == 0.75).all()
        finer = self.build(points=5, start=start)
        wiggly = finer.decode(finer.default())
        assert {0.25, 0.75} == set(wiggly.values["t"].ravel())
        expect_error(lambda: space.encode(wiggly), "not in this space", "'t'", "block.0")

    def test_points_must_be_a_number_of_at_least_one(self) -> None:
        for bad in (0, -1, 2.0, True, "4"):
            expect_error(lambda bad=bad: self.build(points=bad), "points", repr(bad))


def _at(space: SearchSpace, slots: dict[str, float]) -> np.ndarray:
    x = np.full(space.dimension, 0.5)
    for slot, value in slots.items():
        x[[name.startswith(f"weight[{slot},") for name in space.names]] = value
    return x
