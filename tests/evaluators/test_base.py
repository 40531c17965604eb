import subprocess
import sys

import numpy as np
import pytest

from evaluators.base import SPLITS, EvaluatorError, Scores, content_ids, split_of


def test_ids_come_from_content_and_ignore_case_and_white_space() -> None:
    one, same, other, again = content_ids(["What is  2+2?", "what is 2+2?\n", "What is 3+3?", "WHAT IS 2+2?"])
    assert same == f"{one}#2"
    assert again == f"{one}#3"
    assert other.partition("#")[0] != one


def test_an_example_keeps_its_side_when_others_come_and_repeats_share_it() -> None:
    fractions = (0.5, 0.2, 0.3)
    few = content_ids([f"example {i}" for i in range(10)])
    many = content_ids([f"example {i}" for i in range(9, -1, -1)] + ["new", "example 3"])
    assert [split_of(i, fractions) for i in few] == [split_of(i, fractions) for i in many[9::-1]]
    assert split_of(many[-1], fractions) == split_of(many[-1].split("#")[0], fractions)


def test_splits_have_their_shares_and_other_salts_cut_otherwise() -> None:
    ids = content_ids([f"example {i}" for i in range(4000)])
    sides = [split_of(i, (0.5, 0.2, 0.3)) for i in ids]
    shares = [sides.count(split) / len(sides) for split in SPLITS]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.03)
    assert sides != [split_of(i, (0.5, 0.2, 0.3), "salt") for i in ids]
    assert {split_of(i, (1.0, 0.0, 0.0)) for i in ids} == {"search"}


def test_ids_do_not_depend_on_the_hash_seed() -> None:
    program = "from evaluators.base import *; i = content_ids(['a', 'b']); print(i, split_of(i[0], (.5, .2, .3)))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_scores_keep_their_own_read_only_values_and_average_the_scored_ones() -> None:
    given = np.array([1.0, np.nan, 0.5])
    scores = Scores(("a", "b", "c"), given)
    given[0] = 9.0
    assert scores.mean == 0.75
    assert not scores.values.flags.writeable
    assert np.isnan(Scores(("a",), np.array([np.nan])).mean)


def test_scores_have_one_accepted_text_or_none_per_example() -> None:
    assert Scores(("a", "b"), np.ones(2), accepted=("x", None)).accepted == ("x", None)
    with pytest.raises(EvaluatorError, match="per example, 2; got 1"):
        Scores(("a", "b"), np.ones(2), accepted=("x",))


@pytest.mark.parametrize(("ids", "values"), [(("a",), [1.0, 2.0]), (("a", "a"), [1.0, 2.0]), (("a",), [[1.0]])])
def test_scores_must_match_their_ids(ids: tuple[str, ...], values: list[float]) -> None:
    with pytest.raises(EvaluatorError):
        Scores(ids, np.array(values))
