"""`span`: coordinates along given directions; without any they are the inputs' own weights."""

from dataclasses import replace

import numpy as np
import pytest

from search_spaces.base import CoefficientTable, Parameter, SpaceError
from search_spaces.span import Span
from tests.contracts.search_space import INPUTS, PARAMETERS, SMALL, SearchSpaceContract

WEIGHT = (Parameter("weight", 1 / 3, -1.0, 1.0, per_input=True),)


def bounds(reach: float) -> tuple[Parameter, ...]:
    """The parameters, with the values that a weight can have in the space."""
    return tuple(replace(p, low=-reach, high=reach) if p.name == "weight" else p for p in PARAMETERS)


class TestSpan(SearchSpaceContract):
    space = Span
    curved = ("weight",)
    bounds = bounds(0.5)


def directions(n_inputs: int, n_directions: int) -> list[list[float]]:
    rng = np.random.default_rng(n_inputs)
    q, _ = np.linalg.qr(rng.standard_normal((n_inputs, n_directions)))
    return q.T.tolist()


class TestSpanOfDirections(SearchSpaceContract):
    space = Span
    curved = ("weight",)
    bounds = bounds(2.5 * 3**0.5)
    options = {"basis": directions(len(INPUTS), len(INPUTS)), "reach": 2.5}  # noqa: RUF012 - read only


def test_a_coordinate_moves_along_its_direction_only() -> None:
    basis = directions(3, 2)
    space = Span(SMALL, ("a", "b", "c"), WEIGHT, basis=basis, reach=2.0)
    assert space.names == ("weight[all, direction 1]", "weight[all, direction 2]")
    rest = space.decode(np.array([0.5, 0.5])).values["weight"]
    assert rest.tolist() == [[0.0, 0.0, 0.0]]
    moved = space.decode(np.array([1.0, 0.5])).values["weight"][0]
    assert moved == pytest.approx(2.0 * np.array(basis[0]))


def test_the_default_reaches_equal_weights_of_several_checkpoints_and_starts_at_those_of_all() -> None:
    for n in (2, 5, 12):
        names = tuple(f"c{k}" for k in range(n))
        space = Span(SMALL, names, WEIGHT, basis=directions(n, n))
        assert space.decode(space.default()).values["weight"][0] == pytest.approx(np.full(n, 1 / (n + 1)))
        for last in range(2, n + 2):
            row = np.where(np.arange(n) >= n + 1 - last, 1 / last, 0.0)[None, :]
            space.encode(CoefficientTable({"all": SMALL.names}, {"weight": row}))


def test_every_average_is_within_reach_one_and_what_is_not_is_refused() -> None:
    space = Span(SMALL, ("a", "b", "c"), WEIGHT, basis=directions(3, 3), reach=1.0)
    for row in (*np.eye(3), np.full(3, 1 / 4), np.zeros(3)):
        table = CoefficientTable({"all": SMALL.names}, {"weight": row[None, :]})
        assert space.decode(space.encode(table)).values["weight"][0] == pytest.approx(row, abs=1e-12)
    far = CoefficientTable({"all": SMALL.names}, {"weight": np.full((1, 3), 3.0)})
    with pytest.raises(SpaceError, match="directions with factors from -1 to 1"):
        space.encode(far)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reach": 0}, "reach must be a number above 0"),
        ({"basis": [[1.0, 0.0]]}, r"basis needs shape \(n_directions, n_inputs=3\)"),
        ({"basis": [[1.0, 1.0, 0.0]]}, "orthonormal"),
        ({"ranges": {"weight": [0, 1]}}, "remove its range"),
    ],
)
def test_mistakes_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        Span(SMALL, ("a", "b", "c"), WEIGHT, **options)
