"""Which link and which family is taken, and how sure predictions are."""

import numpy as np
import pytest

from evomerge.optimizers._links import Plain, Positive, Rate, read
from evomerge.optimizers._surrogates import fit
from evomerge.optimizers.base import FloatArray, Observation
from tests.evomerge.optimizers.landscapes import measure, observe, tasks

RNG = np.random.default_rng(0)
X = RNG.random((16, 2))


def told(losses: FloatArray) -> list[Observation]:
    return [Observation(i, X[i], losses[i : i + 1]) for i in range(len(losses))]


def with_examples(values: FloatArray) -> list[Observation]:
    return [Observation(i, X[i], np.array([row.mean()]), True, (row,)) for i, row in enumerate(values)]


def test_links_follow_the_values() -> None:
    correct = -RNG.integers(0, 2, (16, 50)).astype(np.float64)
    assert [data.link for data in read(with_examples(correct), 0)] == [Rate(-1.0)]
    assert [data.link for data in read(with_examples(-correct), 0)] == [Rate(1.0)]
    seconds = 5.0 + RNG.random((16, 50))
    assert [data.link for data in read(with_examples(seconds), 0)] == [Plain(), Positive(1.0)]
    assert [data.link for data in read(told(RNG.normal(size=16)), 0)] == [Plain()]


def test_a_rate_is_as_noisy_as_its_binomial() -> None:
    correct = np.zeros((16, 400))
    correct[:, :100] = -1.0
    (data,) = read(with_examples(correct), 0)
    assert data.loss_noise == pytest.approx(np.full(16, np.sqrt(0.25 * 0.75 / 400)), rel=0.02)


def test_failures_are_left_out() -> None:
    (data,) = read([*told(RNG.normal(size=5)), Observation(9, X[9], None)], 0)
    assert len(data.x) == 5


def test_logarithms_are_taken_where_they_predict_better() -> None:
    perplexity = np.exp(1.0 + 4.0 * X[:, 0] + 2.0 * X[:, 1])
    assert fit(told(perplexity), 1, "quadratic").models[0].data.link == Positive(1.0)
    assert fit(told(20.0 + 4.0 * X[:, 0] ** 2 - X[:, 1]), 1, "quadratic").models[0].data.link == Plain()


def test_the_process_that_predicts_left_out_points_best_is_taken() -> None:
    losses = np.stack([(X[:, 0] - 0.3) ** 2 - 2.0 * X[:, 1], np.sin(9.0 * X[:, 0])], axis=1)
    observations = [Observation(i, X[i], losses[i]) for i in range(16)]
    chosen = fit(observations, 2)
    for m, model in enumerate(chosen.models):
        by_name = {name: fit(observations, 2, name).models[m].error for name in ("gp", "quadratic_gp")}
        assert by_name[model.name] == min(by_name.values()) == model.error
    assert [model.name for model in chosen.models] == ["quadratic_gp", "gp"]


def test_a_quadratic_is_not_chosen_by_the_errors_that_its_ridge_was_chosen_by() -> None:
    noise = told(np.random.default_rng(2).normal(size=16))
    alone, chosen = fit(noise, 1, "quadratic").models[0], fit(noise, 1).models[0]
    assert alone.error < min(1.0, chosen.error)  # of noise that nothing can predict
    assert chosen.name == "quadratic_gp"


@pytest.mark.parametrize("choice", ["quadratic", "gp", "quadratic_gp"])
def test_standard_errors_say_how_far_predictions_are_off(choice: str) -> None:
    of = tasks(3, 2, seed=1)
    x = np.random.default_rng(2).random((20, 3))
    surrogates = fit([observe(of, point) for point in x], 2, choice)
    unseen = np.random.default_rng(3).random((300, 3))
    losses, errors = surrogates.predict(unseen)
    off = np.sqrt(np.mean((losses - measure(of, unseen)) ** 2, axis=0) / np.mean(errors**2, axis=0))
    assert ((off > 0.3) & (off < 2.0)).all()


def test_losses_have_the_gradient_that_they_say() -> None:
    of = tasks(2, 2)
    surrogates = fit([observe(of, point) for point in X], 2)
    at, step = np.array([[0.3, 0.6], [0.9, 0.2]]), 1e-6
    losses, gradients = surrogates.losses_and_gradients(at)
    assert losses == pytest.approx(surrogates.predict(at)[0])
    for k, unit in enumerate(np.eye(2)):
        slopes = (surrogates.predict(at + step * unit)[0] - surrogates.predict(at - step * unit)[0]) / (2.0 * step)
        assert gradients[:, :, k] == pytest.approx(slopes, abs=1e-3)
