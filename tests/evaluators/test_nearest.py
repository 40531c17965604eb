"""Suggestions for mistyped names."""

import pytest

from evaluators._nearest import did_you_mean, nearest

KNOWN = ("cma_es", "map", "task_arithmetic", "ties")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("cma", "cma_es"), ("task", "task_arithmetic"), ("tise", "ties"), ("ma", "map"), ("t", None), ("xyz", None)],
)
def test_a_beginning_is_preferred_to_a_similar_name(typed: str, meant: str | None) -> None:
    assert nearest(typed, KNOWN) == meant


def test_a_suggestion_ends_a_message_only_if_there_is_one() -> None:
    assert did_you_mean("cma", KNOWN) == " Did you mean 'cma_es'?"
    assert did_you_mean("xyz", KNOWN) == ""
