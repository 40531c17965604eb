"""The front of given losses: against a dense grid, within limits, and where the preference points."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from evomerge.optimizers._front_solver import Model, _Problem, simplex, solve
from evomerge.optimizers.base import FloatArray
from evomerge.statistics import pareto

NO_LIMITS = np.full(2, np.inf)


def bowls(centres: FloatArray) -> Model:
    """A bowl per centre (n_objectives, dimension), the first with a ripple, so that fronts have gaps."""

    def model(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        away = x[:, None, :] - centres
        losses, gradients = np.sum(away**2, axis=2), 2.0 * away
        losses[:, 0] += 0.1 * np.sin(12.0 * x[:, 0])
        gradients[:, 0, 0] += 1.2 * np.cos(12.0 * x[:, 0])
        return losses, gradients

    return model


def grid(n: int) -> FloatArray:
    return np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, n)] * 2), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("centres", [[[0.1, 0.2], [0.9, 0.7]], [[-0.5, 0.5], [0.4, 1.5]]], ids=["inside", "outside"])
def test_it_covers_what_a_dense_grid_covers(centres: list[list[float]]) -> None:
    model = bowls(np.array(centres))
    front = solve(model, np.full((1, 2), 0.5), 0, np.full(2, 0.5), NO_LIMITS, 40)
    losses, dense = model(front)[0], model(grid(201))[0]
    reference = dense.max(axis=0)
    assert pareto.hypervolume(losses, reference) > 0.99 * pareto.hypervolume(dense, reference)
    assert front.min() >= 0.0
    assert front.max() <= 1.0
    assert pareto.non_dominated(losses).all()


def test_three_objectives() -> None:
    model = bowls(np.array([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]))
    front = solve(model, np.full((1, 2), 0.5), 0, np.full(3, 1 / 3), np.full(3, np.inf), 40)
    losses, dense = model(front)[0], model(grid(61))[0]
    reference = dense.max(axis=0)
    assert pareto.hypervolume(losses, reference) > 0.95 * pareto.hypervolume(dense, reference)
    assert len(front) <= 50


def test_it_ends_at_each_objectives_own_best() -> None:
    model = bowls(np.array([[0.1, 0.2], [0.9, 0.7]]))
    losses = model(solve(model, np.full((1, 2), 0.5), 0, np.full(2, 0.5), NO_LIMITS, 40))[0]
    assert losses.min(axis=0) == pytest.approx(model(grid(401))[0].min(axis=0), abs=1e-4)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.9, 0.1]])
def test_the_first_point_is_the_preferred_one(weights: list[float]) -> None:
    model, preference = bowls(np.array([[0.1, 0.2], [0.9, 0.7]])), np.array(weights)
    front = solve(model, np.full((1, 2), 0.5), 0, preference, NO_LIMITS, 40)
    best = (model(grid(401))[0] @ preference).min()
    assert model(front[:1])[0] @ preference == pytest.approx([best], abs=1e-4)


def test_limits_are_kept_where_they_can_be() -> None:
    model = bowls(np.array([[0.1, 0.2], [0.9, 0.7]]))
    limits = np.array([0.3, np.inf])
    losses = model(solve(model, np.full((1, 2), 0.5), 0, np.full(2, 0.5), limits, 40))[0]
    assert (losses[:, 0] <= 0.3 + 1e-3).all()
    dense = model(grid(401))[0]
    kept = dense[dense[:, 0] <= 0.3]
    assert losses[:, 1].min() == pytest.approx(kept[:, 1].min(), abs=0.01)
    assert len(solve(model, np.full((1, 2), 0.5), 0, np.full(2, 0.5), np.full(2, -9.0), 40))


def test_scalarisations_have_the_gradient_that_they_say() -> None:
    """With a limit that is exceeded at some of the points."""
    model = bowls(np.array([[0.1, 0.2], [0.9, 0.7]]))
    weights, tuning = simplex(2, 40)[:5], np.full((5, 1), 10.0)
    problem = _Problem(model, weights, tuning, 0.002 * tuning, np.zeros(2), np.array([1.0, 2.0]), np.array([0.3, 9.0]))
    flat = np.random.default_rng(0).random(10)
    losses = model(flat.reshape(-1, 2))[0]
    assert 0 < (losses[:, 0] > 0.3).sum() < 5
    assert problem.value(flat, 2)[0] == pytest.approx(np.trace(problem.scalars(losses)))
    assert check_grad(lambda x: problem.value(x, 2)[0], lambda x: problem.value(x, 2)[1], flat) < 1e-4


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 5, 50])
def test_weights_cover_the_simplex(n_objectives: int) -> None:
    weights = simplex(n_objectives, 40)
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(weights)))
    assert weights.min() >= 0.0
    assert len(np.unique(weights, axis=0)) == len(weights)
    corners = {tuple(row) for row in weights.tolist()}
    assert {tuple(row) for row in np.eye(n_objectives).tolist()} <= corners
