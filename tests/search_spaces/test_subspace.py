"""`subspace` keeps the contract of search spaces; its directions are orthogonal and pass through the start."""

import numpy as np
import pytest
from scipy.special import logit

from search_spaces.base import CoefficientTable
from search_spaces.subspace import Subspace
from tests.contracts.search_space import DEEP, INPUTS, PARAMETERS, SMALL, SearchSpaceContract, expect_error


class TestSubspace(SearchSpaceContract):
    """In the tests of the contract, only the weights move along directions."""

    space = Subspace
    options = {"groups": "layerwise", "directions": {"weight": 3}}  # noqa: RUF012 - read only
    per_block = True
    curved = ("weight",)

    def test_the_number_of_coordinates_does_not_depend_on_the_groups(self) -> None:
        for groups in ("layerwise", "blockwise", "tensorwise"):
            space = self.build(DEEP, groups=groups, directions=5)
            assert space.dimension == 5 * (3 + 3 + 1)
        assert space.names[:2] == ("weight[direction.0, math]", "weight[direction.0, code]")

    def test_only_values_with_a_coordinate_each_are_shown_in_their_range(self) -> None:
        assert self.build().ranges == {"density": (0.1, 1.0), "t": (0.0, 1.0)}

    def test_no_more_directions_than_groups(self) -> None:
        assert self.build(groups="uniform", directions=5).dimension == 3 + 3 + 1

    def test_directions_are_orthogonal_and_of_one_length_on_the_logit_scale(self) -> None:
        space = self.build(DEEP, directions={"t": 4}, ranges={"weight": [0, 0], "density": [1, 1]})
        middle = np.full(4, 0.5)
        moved = [logit(space.decode(middle + 0.5 * one).values["t"][:, 0]) for one in np.eye(4)]
        steps = np.array(moved) - logit(0.25)
        np.testing.assert_allclose(steps @ steps.T / steps.shape[1], np.eye(4), atol=1e-12)
        np.testing.assert_allclose(steps[0], 1.0, atol=1e-12)
        assert np.abs(steps[1:]).max() > 1.5, "not all groups move alike along the others"

    def test_inputs_and_seeds_have_directions_of_their_own(self) -> None:
        space, other = (self.build(DEEP, directions=2, seed=seed) for seed in (0, 1))
        x = space.default()
        names = np.array([name.startswith("weight[direction.1") for name in space.names])
        ours, theirs = (each.decode(np.where(names, 0.9, x)).values["weight"] for each in (space, other))
        assert not np.allclose(ours[:, 0], ours[:, 1])
        assert not np.allclose(ours, theirs)

    def test_the_middle_is_the_start(self) -> None:
        start = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.7, -0.2, 1.5]]), "t": np.array([[0.0]])})
        space = self.build(directions=3, start=start)
        np.testing.assert_array_equal(space.default(), 0.5)
        values = space.decode(space.default()).values
        np.testing.assert_allclose(values["weight"][:, :2], [[0.7, -0.2]] * len(space.groups), atol=1e-12)
        np.testing.assert_allclose(values["weight"][:, 2], 1.5 - 2e-3, atol=1e-12)
        np.testing.assert_allclose(values["t"], 1e-3, atol=1e-12)

    def test_another_start_is_the_center_of_the_next_subspace(self) -> None:
        space = self.build(directions=3)
        found = space.decode(np.random.default_rng(0).random(space.dimension))
        onward = self.build(directions=3, seed=1, start=found)
        again = onward.decode(onward.default())
        assert all(np.abs(again.values[name] - found.values[name]).max() < 1e-12 for name in found.values)

    def test_what_makes_no_subspace_is_refused(self) -> None:
        expect_error(lambda: self.build(directions=0), "0")
        expect_error(lambda: self.build(directions={"tee": 3}), "'tee'")
        expect_error(lambda: self.build(groups="perlayer"), "perlayer", "tensorwise")
        expect_error(lambda: self.build(seed=-1), "-1")
        space = Subspace(SMALL, INPUTS, PARAMETERS, groups="layerwise", directions=2)
        table = space.decode(space.default())
        weights = np.array(table.values["weight"])
        weights[0] += 0.1
        expect_error(
            lambda: space.encode(CoefficientTable(table.groups, {**table.values, "weight": weights})), "weight"
        )


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_ends_of_many_directions_stay_within_the_bounds(end: float) -> None:
    space = Subspace(DEEP, INPUTS, PARAMETERS, directions=20)
    table = space.decode(np.full(space.dimension, end))
    for parameter in PARAMETERS:
        values = table.values[parameter.name]
        assert parameter.low <= values.min() <= values.max() <= parameter.high
