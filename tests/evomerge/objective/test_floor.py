"""Floors: what `keep` of a search file and `--keep` may say, and the score that each asks for."""

import pytest

from evomerge.objective import Floor, Objective
from evomerge.objective.floor import keep_data, read_floor, read_keep
from evomerge.results.pick import read_constraint


@pytest.mark.parametrize(
    ("text", "fall"),
    [("-1pt", 0.01), ("2.5pt", 0.025), ("-.5 pt", 0.005), ("0", 0.0), ("-0.02", 0.02), (1, 1.0), ("1e-2", 0.01)],
)
def test_how_far_a_task_may_fall(text: object, fall: float) -> None:
    assert read_keep(text) == Floor(pytest.approx(fall))


@pytest.mark.parametrize(("text", "kept"), [("98%", 0.98), ("-2%", 0.98), ("100%", 1.0), ("50 %", 0.5), ("-98%", 0.02)])
def test_a_share_of_the_best_parent_or_how_much_less(text: str, kept: float) -> None:
    assert read_keep({"one": text}) == {"one": Floor(kept, "share")}
    assert read_keep(keep_data(Floor(kept, "share"))) == Floor(kept, "share")


@pytest.mark.parametrize("text", [-0.01, "", "pt", "--1", "+1pt", "98%pt", ">=0.7", True, None, float("nan"), {}])
def test_what_is_no_fall_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"0\.01 or -1pt"):
        read_keep(text)


@pytest.mark.parametrize(("text", "why"), [("101%", "from 0% to 100%"), ("3%", "write -3%, and if it is meant, -97%")])
def test_shares_that_can_not_be_meant_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_keep(text)


@pytest.mark.parametrize("value", ["-1pt", "-2%", "98%", "-2.5 pt"])
def test_a_file_and_a_wish_read_the_same_floor(value: str) -> None:
    assert read_constraint(f"chat>={value}", Objective({"chat": 1.0})).floor == read_keep(value)


@pytest.mark.parametrize(("value", "limit"), [("12", 12.0), ("+50pt", 10.5), ("-1pt", 9.99), ("102%", 10.2)])
def test_where_less_is_better_a_sign_is_that_of_the_score(value: str, limit: float) -> None:
    floor = read_floor(value, -1.0)
    assert floor is not None
    assert floor.limit(10.0, -1.0) == pytest.approx(limit)


@pytest.mark.parametrize(("written", "share"), [("1%", 0.01), ("2.5 %", 0.025), (0.02, 0.02), ("0%", 0.0), (0, 0.0)])
def test_flips_are_a_share_of_the_examples(written: object, share: float) -> None:
    floor = read_keep({"one": {"flips": written}})
    assert floor == {"one": Floor(pytest.approx(share), "flips")}
    assert read_keep(keep_data(floor)) == floor


def test_flips_of_no_task_are_refused_unless_a_task_has_that_name() -> None:
    with pytest.raises(ValueError, match=r"limited by task, as in \{sort: \{flips: 1%\}\}; got \{'flips': '20%'\}"):
        read_keep({"flips": "20%"})
    assert read_keep({"flips": "98%"}) == {"flips": Floor(0.98, "share")}


@pytest.mark.parametrize("written", ["1", "1pt", "-1%", "100%", 1, -0.1, True, None])
def test_what_is_no_share_of_flips_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"^one: flips .*such as 1% or 0\.01; got"):
        read_keep({"one": {"flips": written}})
