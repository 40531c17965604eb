"""What a dashboard shows of a point: coefficients under their names where that can be said, and never too many."""

import numpy as np
import pytest

from evomerge.report.axes import MANY, of_points, of_space
from search_spaces.base import Layout, Parameter, SearchSpace
from search_spaces.layerwise import Layerwise
from search_spaces.simplex import Simplex
from search_spaces.smooth import Smooth

PARAMETERS = [
    Parameter("weight", default=0.5, low=-1.0, high=1.5, per_input=True),
    Parameter("t", default=0.2, low=0.0, high=0.4, per_input=False),
]


def layout(n_blocks: int) -> Layout:
    return Layout.from_names([f"model.layers.{n}.mlp.up_proj.weight" for n in range(n_blocks)])


def test_few_coordinates_are_shown_as_the_coefficients_that_they_are() -> None:
    space = Layerwise(layout(3), ("a", "b"), PARAMETERS)
    x = np.random.default_rng(0).random(space.dimension)
    table = space.decode(x).values
    shown = [axis.value(x) for axis in of_space(space)]
    np.testing.assert_allclose(shown, np.concatenate([table["weight"].ravel(), table["t"].ravel()]))
    assert [axis.name for axis in of_space(space)] == list(space.names)


def test_many_are_shown_as_means_over_groups() -> None:
    space = Layerwise(layout(30), ("a", "b"), PARAMETERS)
    x = np.random.default_rng(0).random(space.dimension)
    table = space.decode(x).values
    shown = {axis.name: axis.value(x) for axis in of_space(space)}
    means = [*table["weight"].mean(axis=0), table["t"].mean()]
    assert list(shown) == ["weight[mean, a]", "weight[mean, b]", "t[mean]"]
    np.testing.assert_allclose(list(shown.values()), means)


@pytest.mark.parametrize(
    "space", [Simplex(layout(3), ("a", "b"), PARAMETERS[:1]), Smooth(layout(9), ("a",), PARAMETERS)]
)
def test_every_coordinate_of_other_spaces_has_its_axis(space: SearchSpace) -> None:
    axes = of_space(space)
    assert [axis.name for axis in axes] == list(space.names)
    for axis in axes:
        assert axis.low <= axis.value(np.ones(space.dimension)) <= axis.high
    simplex = isinstance(space, Simplex)
    assert (axes[0].low, axes[0].high) == ((0.0, 1.0) if simplex else (-1.0, 1.5))


@pytest.mark.parametrize("dimension", [1, MANY, 3 * MANY + 1])
def test_without_a_space_coordinates_are_numbered_and_none_is_left_out(dimension: int) -> None:
    axes = of_points(dimension)
    assert [index for axis in axes for index in axis.coordinates] == list(range(dimension))
    assert len(axes) == min(dimension, MANY)
    assert len({axis.name for axis in axes}) == len(axes)
