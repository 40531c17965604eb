"""Names of trials: what is written is what is read."""

import pytest

from evomerge.trial import number_in, trial_label


def test_a_candidate_is_found_by_its_name() -> None:
    assert trial_label(7) == "trial:7"
    assert number_in(trial_label(7)) == 7


@pytest.mark.parametrize("label", ["7", "trial:", "trial:x", "parent:7", "rerun:trial:7", "start", ""])
def test_another_label_names_no_candidate(label: str) -> None:
    assert number_in(label) is None
