import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.base import CoefficientTable
from search_spaces.simplex import Simplex
from tests.contracts.search_space import (
    INPUTS,
    PARAMETERS,
    PROPERTY,
    SMALL,
    SearchSpaceContract,
    expect_error,
    points,
)


class TestSimplex(SearchSpaceContract):
    space = Simplex
    per_block = True
    curved = ("weight",)

    @PROPERTY
    @given(data=st.data())
    def test_weights_are_on_the_simplex(self, data: st.DataObject) -> None:
        space = self.build()
        weights = space.decode(data.draw(points(space))).values["weight"]
        assert (weights >= 0.0).all()
        assert np.abs(weights.sum(axis=1) - 1.0).max() <= 1e-15 * 4

    def test_default_is_uniform(self) -> None:
        space = self.build()
        weights = space.decode(space.default()).values["weight"]
        assert np.abs(weights - 1 / 3).max() <= 1e-15

    def test_every_corner_is_reached_exactly(self) -> None:
        space = self.build()
        table = space.decode(space.default())
        for corner in np.eye(3):
            one = CoefficientTable(
                table.groups, dict(table.values) | {"weight": np.tile(corner, (len(space.groups), 1))}
            )
            assert np.array_equal(space.decode(space.encode(one)).values["weight"], one.values["weight"])

    def test_uniform_points_give_uniform_weights(self) -> None:
        space = Simplex(SMALL, INPUTS, PARAMETERS[:1], groups="uniform")
        x = np.random.default_rng(0).random((4000, space.dimension))
        weights = np.array([space.decode(one).values["weight"][0] for one in x])
        # Dirichlet(1, 1, 1): mean 1/3, variance 1/18 for every input alike.
        np.testing.assert_allclose(weights.mean(axis=0), 1 / 3, atol=0.02)
        np.testing.assert_allclose(weights.var(axis=0), 1 / 18, atol=0.004)

    @pytest.mark.parametrize(("groups", "first"), [("uniform", "all"), ("blockwise", "embedding")])
    def test_groups_can_be_chosen(self, groups: str, first: str) -> None:
        space = self.build(groups=groups)
        assert space.groups[0] == first
        assert space.names[:2] == (f"weight[{first}, after math]", f"weight[{first}, after code]")

    def test_one_input_has_weight_one(self) -> None:
        space = Simplex(SMALL, ["only"], PARAMETERS)
        assert not [name for name in space.names if name.startswith("weight")]
        assert (space.decode(space.default()).values["weight"] == 1.0).all()

    def test_what_contradicts_a_simplex_is_refused(self) -> None:
        expect_error(lambda: self.build(ranges={"weight": [0, 2]}), "'weight'", "[0, 2]")
        expect_error(lambda: self.build(groups="perlayer"), "perlayer", "layerwise")
        expect_error(lambda: Simplex(SMALL, INPUTS, PARAMETERS[2:]), "'weight'")
        half = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.5, 0.2, 0.2]])})
        expect_error(lambda: self.build(start=half), "[0.5, 0.2, 0.2]", "sum to 1")
