"""The graft of a quadratic loss, whose best mask is known."""

import pytest
import torch
from torch import Tensor

from evomerge.prepare.calibration.data import CollectionError
from evomerge.prepare.masks.graft import Grafted, GraftSettings, largest, learn_graft
from evomerge.prepare.masks.network import Change, Slope

#: The loss is least where these elements of the delta are added, and no others.
WANTED = {"a": torch.tensor([[True, False, True], [False, True, False]]), "b": torch.tensor([False, True])}
DELTAS = {"a": torch.tensor([[0.1, -0.2, 0.3], [2.0, -0.5, 1.5]]), "b": torch.tensor([1.0, -0.4])}


def loss(change: Change) -> float:
    return sum(float(((change[n] - WANTED[n] * d) ** 2).sum()) / 2 for n, d in DELTAS.items())


def slope(change: Change) -> Slope:
    return Slope(loss(change), {name: change[name] - WANTED[name] * delta for name, delta in DELTAS.items()})


def learned(**settings: float) -> Grafted:
    return learn_graft(DELTAS, slope, loss, GraftSettings(**settings))  # type: ignore[arg-type]


def same(masks: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(masks[name], wanted[name]) for name in wanted)


def test_the_largest_elements_of_the_whole_model_begin() -> None:
    assert {name: mask.nonzero().tolist() for name, mask in largest(DELTAS, 0.25).items()} == {
        "a": [[1, 0], [1, 2]],
        "b": [],
    }
    equal = {"a": torch.tensor([1.0, 0.0, -1.0, 1.0])}
    assert largest(equal, 0.25)["a"].tolist() == [True, False, True, True]
    assert largest(equal, 1.0)["a"].tolist() == [True, False, True, True], "zeros need no mask"


def test_descent_finds_the_best_mask() -> None:
    found = learned(density=0.5, steps=30, learning_rate=1e8)
    assert not same(largest(DELTAS, 0.5), WANTED)
    assert same(found.masks, WANTED)
    assert found.losses[found.best] == 0.0
    assert found.losses[0] == loss({n: d * largest(DELTAS, 0.5)[n] for n, d in DELTAS.items()}) > 1.0


def test_the_default_rate_exchanges_the_elements_that_gain_most() -> None:
    found = learned(density=0.25, steps=30)
    wrong = {name: mask != WANTED[name] for name, mask in found.masks.items()}
    assert found.losses[found.best] < 0.1 * found.losses[0]
    assert all((DELTAS[name][mask].abs() <= 0.5).all() for name, mask in wrong.items())


def test_one_step_exchanges_what_lowers_the_loss_to_first_order() -> None:
    """At the start the gradient by an element's share is (share - wanted) delta^2."""
    found = learned(density=0.5, steps=1, learning_rate=1e12)
    assert same(found.masks, WANTED)
    none = learned(density=0.5, steps=1, learning_rate=1e-3)
    assert same(none.masks, largest(DELTAS, 0.5))
    assert none.best == 0


def test_the_step_with_the_least_held_out_loss_is_taken() -> None:
    calls: list[int] = []

    def held_out(_: Change) -> float:
        calls.append(len(calls))
        return [3.0, 2.0, 1.0, 1.0, 5.0][len(calls) - 1]

    found = learn_graft(DELTAS, slope, held_out, GraftSettings(density=0.5, steps=4, learning_rate=1e8))
    assert (found.best, found.losses) == (2, (3.0, 2.0, 1.0, 1.0, 5.0))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    def broken(change: Change) -> Slope:
        good = slope(change)
        return good._replace(gradients={**good.gradients, "b": torch.tensor([0.0, float("nan")])})

    with pytest.raises(CollectionError, match="its gradient by b is not finite"):
        learn_graft(DELTAS, broken, loss, GraftSettings(density=0.5))


@pytest.mark.parametrize("settings", [{"density": 0.0}, {"density": 1.1}, {"steps": -1}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(CollectionError, match=r"expected a share in \(0, 1\]"):
        GraftSettings(**settings)
