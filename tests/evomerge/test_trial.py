"""Labels of trials: what is written is what is read."""

import pytest

from evomerge.trial import Origin, Trial, detail_of, family_of, number_in


@pytest.mark.parametrize(
    ("label", "origin", "family", "detail"),
    [
        ("canary", Origin.CANARY, "canary", ""),
        ("start", Origin.START, "start", ""),
        ("search", Origin.SEARCH, "search", ""),
        ("recommended:24", Origin.RECOMMENDED, "recommended", "24"),
        ("trial:7", Origin.CANDIDATE, "trial", "7"),
        ("base", Origin.BASE, "base", ""),
        ("parent:math", Origin.PARENT, "parent", "math"),
        ("uniform", Origin.BASELINE, "uniform", ""),
        ("task_arithmetic:0.4", Origin.BASELINE, "task_arithmetic", "0.4"),
        ("rerun:parent:math", Origin.RERUN, "rerun", "parent:math"),
        ("baseline", Origin.BASELINE, "baseline", ""),
        ("parents", Origin.BASELINE, "parents", ""),
        ("trial", Origin.CANDIDATE, "trial", ""),
    ],
)
def test_a_label_says_where_a_trial_comes_from(label: str, origin: Origin, family: str, detail: str) -> None:
    assert Trial(0, None, label=label).origin is origin
    assert (family_of(label), detail_of(label)) == (family, detail)


def test_a_label_that_is_written_is_read_back() -> None:
    assert number_in(Origin.CANDIDATE.label(7)) == 7
    again = Origin.RERUN.label(Origin.PARENT.label("a:b"))
    assert again == "rerun:parent:a:b"
    assert detail_of(detail_of(again)) == "a:b"


def test_the_base_counts_as_a_parent() -> None:
    assert {origin for origin in Origin if origin.is_parent} == {Origin.BASE, Origin.PARENT}


@pytest.mark.parametrize("label", ["7", "trial:", "trial:x", "parent:7", "rerun:trial:7", "start", ""])
def test_another_label_names_no_candidate(label: str) -> None:
    assert number_in(label) is None
