"""Choices off a front whose scores are known: weights, constraints, the knee, and what cannot be read."""

from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.objective import Floor, Objective
from evomerge.results.front import Front, front
from evomerge.results.pick import ChoiceError, Chosen, Wish, choose, read_constraint, read_weights, read_wish
from tests.evomerge.report.fronts import PARETO, SEARCH, write_front

#: Accuracies, and a loss of which less is better.
MIXED = Objective({"chat": 1.0, "loss": 1.0}, frozenset({"loss"}), kind="pareto")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Front:
    """The merges (math, chat): 5 (.9, .1), 6 and 9 (.6, .6), 7 (.1, .9), 8 (.7, .4); the best parents have .8 twice."""
    study = write_front(tmp_path_factory.mktemp("choosing") / "study")
    study.close()
    return front(study, PARETO)


def chosen(
    found: Front, *keep: str, prefer: str | None = None, best_at: str | None = None, knee: bool = False
) -> Chosen:
    return choose(found, read_wish(found.objective, prefer=prefer, best_at=best_at, keep=keep, knee=knee))


@pytest.mark.parametrize(
    ("weights", "number"),
    [
        ("math=1,chat=1", 6),  # .6 of 6 and 9, .55 of 8, .5 of 5 and 7; the earlier of the equal ones
        ("math=2,chat=1", 5),  # 1.9, against 1.8 of 6 and 8
        ("chat=1", 7),
        ("chat = 3, math=1", 7),  # 2.8 against 2.4
        ("math=3,chat=2", 6),  # 3.0, against 2.9 of 5 and 8
    ],
)
def test_weights(found: Front, weights: str, number: int) -> None:
    assert chosen(found, prefer=weights).point.number == number


@pytest.mark.parametrize(
    ("keep", "number"),
    [
        ((), 5),
        (("chat>=0.4",), 8),
        (("chat >= 0.41",), 6),
        (("chat>=-20pt",), 6),  # .8 - .2 = .6, exactly reached
        (("chat>=+5pt",), 7),  # .85
        (("chat>=50%",), 8),  # .4
        (("chat>=-25%",), 6),  # .6
        (("chat>=0.2", "math>=0.65"), 8),
    ],
)
def test_the_best_on_a_task_that_keeps_the_others(found: Front, keep: tuple[str, ...], number: int) -> None:
    decided = chosen(found, *keep, best_at="math")
    assert decided.met
    assert decided.point.number == number


def test_constraints_go_with_every_wish(found: Front) -> None:
    assert chosen(found, "math>=0.65", knee=True).point.number == 8
    assert chosen(found, "math>=0.65", prefer="chat=1").point.number == 8
    assert chosen(found, "math>=0.65").point.number == 8  # the study's own: .55 against .5 of 5
    assert chosen(found, knee=True).point.number == 6
    assert chosen(found).point.number == 6


def test_the_nearest_point_where_none_keeps_the_constraints(found: Front) -> None:
    # Both tasks range over .8: 8 misses .1 and .4, 6 misses .2 and .2, 5 misses .7 of chat.
    decided = chosen(found, "math>=0.8", "chat>=-0pt", best_at="math")
    assert not decided.met
    assert decided.point.number == 6
    assert [each.missed_by for each in decided.reached] == pytest.approx([0.2, 0.2])
    assert [(each.limit, each.value) for each in decided.reached] == [(0.8, 0.6), (0.8, 0.6)]


def test_the_nearest_misses_least_where_it_misses_most(found: Front) -> None:
    # Of .9 and .6, 8 misses .2 twice, 6 misses .3 once, 5 misses .5.
    assert chosen(found, "math>=0.9", "chat>=0.6").point.number == 8


def test_misses_are_compared_in_ranges_of_the_front(tmp_path: Path) -> None:
    # Chat ranges over .8 and loss over .2. Asked .9 and .2: 0 misses .4 of chat, half its range; 1 all of it.
    study = write_front(tmp_path / "study", {0: (5, 3), 1: (9, 4), 2: (1, 2)}, MIXED)
    study.close()
    decided = choose(
        front(study, MIXED), read_wish(MIXED, prefer=None, best_at=None, keep=["chat>=.9", "loss<=.2"], knee=False)
    )
    assert decided.point.number == 0
    assert [each.missed_by for each in decided.reached] == pytest.approx([0.4, 0.1])


def test_less_is_better_where_the_task_says_so(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study", {"parent:a": (4, 4), 1: (9, 6), 2: (5, 4), 3: (3, 3)}, MIXED)
    study.close()
    both = front(study, MIXED)
    assert choose(both, Wish(best_at="loss")).point.number == 3
    for text in ("loss<=0.45", "loss<=+5pt", "loss<=+20%", "loss<=101%"):
        assert chosen(both, text, best_at="chat").point.number == 2, text
    # From worst to best of all, 1 has (1, 0), 2 has (1/3, 2/3) and 3 has (0, 1).
    assert chosen(both, prefer="chat=3,loss=2").point.number == 1
    assert chosen(both, prefer="chat=1,loss=2").point.number == 3


def test_parents_are_no_choice(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study", {"base": (1, 1), "parent:a": (9, 9), "uniform": (5, 5), 3: (4, 6)})
    study.close()
    decided = choose(front(study, PARETO), Wish(best_at="math"))
    assert decided.point.label == "uniform"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("caht>=0.5", "No task named 'caht'; there are math, chat. Did you mean 'chat'?"),
        ("chat<=0.5", "On chat larger is better, so a constraint is chat>=VALUE"),
        ("chat>=1pt", "Points in 'chat>=1pt' need a sign"),
        ("chat>0.5", "expected TASK>=VALUE"),
        ("chat>=half", "expected TASK>=VALUE"),
        ("chat>=0.5pts", "expected TASK>=VALUE"),
        ("chat>=nan", "expected TASK>=VALUE"),
        ("", "expected TASK>=VALUE"),
    ],
)
def test_constraints_that_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(ChoiceError) as caught:
        read_constraint(text, PARETO)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("math=2,caht=1", "Did you mean 'chat'?"),
        ("math", "expected TASK=NUMBER"),
        ("math=2,,", "expected TASK=NUMBER"),
        ("math=-1,chat=2", "Weights must be at least 0"),
        ("math=0", "Weights must be at least 0"),
        ("math=1e999", "Weights must be at least 0"),
    ],
)
def test_weights_that_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(ChoiceError) as caught:
        read_weights(text, ["math", "chat"])
    assert said in str(caught.value)


def test_one_aim_at_a_time() -> None:
    with pytest.raises(ChoiceError, match="Choose one of"):
        read_wish(PARETO, prefer="math=1", best_at=None, keep=[], knee=True)


def test_what_is_measured_from_the_parents_needs_some(tmp_path: Path) -> None:
    study = write_front(tmp_path / "alone", {0: (5, 5)})
    study.close()
    alone = front(study, PARETO)
    assert chosen(alone, "chat>=0.5").met
    for text in ("chat>=-1pt", "chat>=98%", "chat>=-2%"):
        with pytest.raises(ChoiceError, match="none is scored on this split"):
            chosen(alone, text)
    with pytest.raises(ChoiceError, match="No merge of this study is scored on the select split yet"):
        choose(front(study, PARETO, "select"), Wish())


def test_a_score_above_one_where_scores_are_shares_is_a_percentage_without_its_sign(
    found: Front, tmp_path: Path
) -> None:
    for text in ("chat>=98", "chat>=1.01"):
        with pytest.raises(ChoiceError, match=f"{text}' can never be met: scores on chat lie between 0 and 1"):
            chosen(found, text, best_at="math")
    with pytest.raises(ChoiceError, match=r"chat>=98% is 98 % of the best parent's score, chat>=0\.98 a score"):
        chosen(found, "chat>=98")
    assert not chosen(found, "chat>=1").met
    assert not chosen(found, "chat>=+30pt").met
    study = write_front(tmp_path / "study", {1: (9, 6), 2: (5, 4)}, MIXED)
    study.close()
    assert chosen(front(study, MIXED), "loss<=12").met


def test_no_share_of_nothing(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study", {"base": (0, 0), 1: (5, 5)})
    study.close()
    with pytest.raises(ChoiceError, match="which is 0"):
        chosen(front(study, PARETO), "chat>=98%")


def test_a_straight_front_has_no_knee_and_a_single_merge_is_its_own(tmp_path: Path) -> None:
    straight = write_front(tmp_path / "straight", {0: (9, 1), 1: (1, 9), 2: (5, 5)})
    straight.close()
    with pytest.raises(ChoiceError, match="has no knee"):
        chosen(front(straight, PARETO), knee=True)
    single = write_front(tmp_path / "single", {0: (9, 9), 1: (1, 9)})
    single.close()
    assert chosen(front(single, PARETO), knee=True).point.number == 0


def test_a_mean_has_a_front_over_its_tasks(tmp_path: Path) -> None:
    mean = Objective({"math": 3.0, "chat": 1.0})
    study = write_front(tmp_path / "study", SEARCH, mean)
    study.close()
    assert choose(front(study, mean), Wish()).point.number == 5
    assert choose(front(study, replace(mean, keep={"chat": Floor(0.2)})), Wish()).point.number == 6
