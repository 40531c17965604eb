"""Holm's procedure against the example worked by hand."""

import pytest

from evomerge.statistics import holm


def test_step_down() -> None:
    assert holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.011}) == pytest.approx(
        {"d": 0.06, "a": 0.04, "c": 0.06, "b": 0.04}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.2}) == {"a": 0.2}
    assert holm({}) == {}
