"""`niches` keeps the optimizers' contract, and its niches are what the paper says."""

from itertools import count

import numpy as np
import pytest

from evomerge.optimizers.base import FloatArray, Observation, OptimizerError
from evomerge.optimizers.niches import NaturalNiches
from tests.contracts.optimizer import OptimizerContract

OPTIONS = {"population": 2, "n_startup_trials": 2, "mutation": 0.0}


class TestNaturalNiches(OptimizerContract):
    plugin = NaturalNiches
    shapes = ((1, 1), (7, 2), (7, 3), (56, 2))
    learns = True
    learns_fronts = True


def observe(number: int, x: list[float], *solved: list[float]) -> Observation:
    """A trial with accuracies: per task, which examples were solved."""
    examples = tuple(-np.array(values) for values in solved)
    return Observation(number, np.array(x), np.array([values.mean() for values in examples]), True, examples)


def niches(dimension: int, n_objectives: int, **options: float) -> NaturalNiches:
    """An optimizer that may propose what was told: here children without mutation show who is in the archive."""
    optimizer = NaturalNiches(dimension, n_objectives, 0, None, **(OPTIONS | options))
    new = count()
    optimizer.identify(lambda _: next(new).to_bytes(8))
    return optimizer


def archive(optimizer: NaturalNiches, n: int = 40) -> set[tuple[float, ...]]:
    """Members of an archive of two, seen by their children: without mutation these keep to what the parents share."""
    return {tuple(optimizer.ask(1000 + number).x.round(6)) for number in range(n)}


def test_who_solves_what_others_do_not_stays_although_its_mean_is_the_lowest() -> None:
    """Three members for two places; coordinate 0 is 1 for the specialist only. Means: 0.75, 0.75, 0.25."""
    specialist = observe(4, [1.0, 0.5], [0, 0, 0, 1])
    optimizer = niches(2, 1)
    for each in (observe(0, [0.0, 0.5], [1, 1, 1, 0]), observe(1, [0.0, 0.4], [1, 1, 1, 0]), specialist):
        optimizer.tell(each)
    # Shared by two, three examples give 1.5 / 4 each; the fourth gives its only solver 1 / 4: 0.375, 0.375, 0.25.
    assert all(x[0] == 0.0 for x in archive(optimizer))
    crowded = niches(2, 1, population=4, n_startup_trials=3)
    for number in range(4):
        crowded.tell(observe(number, [0.0, 0.5 - number / 10], [1, 1, 1, 0]))
    crowded.tell(specialist)  # now four share: 0.1875 each, and one of them goes
    assert any(x[0] > 0.0 for x in archive(crowded))


def test_the_mate_is_the_one_that_solves_the_rest() -> None:
    """A solves the first half, B nearly the same, C the second half: whoever comes first, C takes part."""
    optimizer = niches(3, 1, population=3, n_startup_trials=3)
    optimizer.tell(observe(0, [1.0, 0.0, 0.0], [1, 1, 0, 0]))
    optimizer.tell(observe(1, [0.0, 1.0, 0.0], [1, 1, 0, 0]))
    optimizer.tell(observe(2, [0.0, 0.0, 1.0], [0, 0, 1, 1]))
    assert all(x[2] > 0.0 for x in archive(optimizer))
    assert any(x[0] > 0.0 for x in archive(optimizer))
    assert any(x[1] > 0.0 for x in archive(optimizer))


def test_a_child_lies_on_the_arc_between_its_parents_on_both_sides_of_the_split() -> None:
    optimizer = niches(2, 1)
    optimizer.tell(observe(0, [1.0, 0.0], [1, 0]))
    optimizer.tell(observe(1, [0.0, 1.0], [0, 1]))
    for x in archive(optimizer):
        # Unsplit (split at 0: all of it at 1 - t) the norm is 1; split at 1: (cos a, cos a) or (sin a, sin a).
        assert np.hypot(*x) == pytest.approx(1.0, abs=1e-5) or x[0] == pytest.approx(x[1], abs=1e-5)
    assert len(archive(optimizer)) == 40


@pytest.mark.parametrize(("preference", "stays"), [(None, True), ([9.0, 1.0], False), ([1.0, 9.0], True)])
def test_tasks_weigh_by_preference_and_not_by_their_number_of_examples(
    preference: list[float] | None, stays: bool
) -> None:
    """The only solver of a task of one example, beside solvers of all and of half of a task of a hundred.

    Shared fitness at equal preferences: 0.5, 0.375, 0.125; at 9 to 1: 0.1, 0.675, 0.225.
    """
    optimizer = niches(2, 2)
    if preference:
        optimizer.prefer(preference)
    optimizer.tell(observe(0, [1.0, 0.5], [0] * 100, [1]))
    optimizer.tell(observe(1, [0.0, 0.5], [1] * 100, [0]))
    optimizer.tell(observe(2, [0.0, 0.4], [1] * 50 + [0] * 50, [0]))
    assert any(x[0] > 0.0 for x in archive(optimizer)) == stays


def test_unbounded_losses_and_missing_examples_are_compared_within_the_archive() -> None:
    def told(losses: list[tuple[FloatArray, ...]]) -> NaturalNiches:
        optimizer = niches(2, 1)
        for number, examples in enumerate(losses):
            loss = np.array([np.mean([values.mean() for values in examples])])
            x = np.array([number / 4, 1.0 - number / 4])
            optimizer.tell(Observation(number, x, loss, True, examples))
        return optimizer

    perplexities = [(np.array(values),) for values in ([5.0, 90.0], [9.0, 30.0], [4.0, 100.0])]
    same = [(np.array(values) * 1000.0 - 7.0,) for values in ([5.0, 90.0], [9.0, 30.0], [4.0, 100.0])]
    assert archive(told(perplexities)) == archive(told(same))
    without = niches(2, 1)
    for number, loss in enumerate([47.5, 19.5, 52.0]):
        examples = perplexities[number] if number == 0 else ()
        x = np.array([number / 4, 1.0 - number / 4])
        without.tell(Observation(number, x, np.array([loss]), True, examples))
    # By the objective alone the second is best, so the third, now the worst by min-max, left.
    assert all(x[0] <= 0.3 for x in archive(without))


@pytest.mark.parametrize(
    "options", [{"population": 1}, {"n_startup_trials": 1}, {"n_startup_trials": 21}, {"mutation": 1.5}]
)
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(OptimizerError, match=str(next(iter(options.values())))):
        NaturalNiches(2, 2, 0, None, **options)
