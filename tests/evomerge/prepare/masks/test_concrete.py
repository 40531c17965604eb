"""A concrete mask of a quadratic loss, whose best mask is known."""

import pytest
import torch

from evomerge.prepare.calibration.data import CollectionError
from evomerge.prepare.masks.concrete import Concrete, ConcreteSettings, expected, learn_concrete, relaxed
from evomerge.prepare.masks.network import Change, Slope

TOTAL = {"a": torch.tensor([1.0, -2.0, 1.0, 2.0]), "b": torch.tensor([[1.0], [1.0]])}
#: With a weight of 0.5, the loss is least at masks of twice these, whose mean is 1.
KEPT = {"a": torch.tensor([1.0, 0.0, 0.0, 1.0]), "b": torch.tensor([[1.0], [0.0]])}


def slope(_: int, change: Change) -> Slope:
    gaps = {name: change[name] - 0.5 * 2.0 * KEPT[name] * total for name, total in TOTAL.items()}
    return Slope(sum(float((gap**2).sum()) / 2 for gap in gaps.values()), gaps)


def learned(**settings: float) -> Concrete:
    return learn_concrete(TOTAL, slope, ConcreteSettings(**{"weight": 0.5, **settings}))  # type: ignore[arg-type]


def test_descent_keeps_what_lowers_the_loss() -> None:
    found = learned(steps=120, learning_rate=0.2)
    for name, mask in found.masks.items():
        torch.testing.assert_close(mask, 2.0 * KEPT[name], atol=0.15, rtol=0.0)
        assert float(mask.mean()) == pytest.approx(1.0)
    first, last = (sum(part) / 20 for part in (found.losses[:20], found.losses[-20:]))
    assert last < 0.25 * first


def test_the_seed_decides() -> None:
    once, again, other = learned(steps=3), learned(steps=3), learned(steps=3, seed=1)
    assert once.losses == again.losses != other.losses
    assert torch.equal(once.masks["a"], again.masks["a"])


def test_masks_have_mean_one_and_no_noise_is_the_probability() -> None:
    logits = torch.tensor([0.0, 2.0, -2.0])
    assert float(relaxed(logits, torch.tensor([1.0, 0.0, -1.0]), 0.5).mean()) == pytest.approx(1.0)
    torch.testing.assert_close(expected(logits), logits.sigmoid() / 0.5)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    with pytest.raises(CollectionError, match="The loss is nan in step 1"):
        learn_concrete(TOTAL, lambda *_: Slope(float("nan"), dict(TOTAL)), ConcreteSettings())


@pytest.mark.parametrize("settings", [{"steps": 0}, {"weight": 0.0}, {"learning_rate": 0.0}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(CollectionError, match="expected at least 1 step, and the others above 0"):
        ConcreteSettings(**settings)
