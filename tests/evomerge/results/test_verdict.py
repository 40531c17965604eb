"""Sentences: units, margins that are not known, and what is claimed of a worst task."""

import math

import pytest

from evomerge.objective import Floor, Kind, Objective
from evomerge.objective.score import DisplayScore
from evomerge.results.verdict import Claim, Repeat, verdict
from evomerge.statistics import Difference
from tests.evomerge.results.models import scored_models

TWO = {"math": 1.0, "text": 1.0}
MIXED = "in the weighted mean of all tasks, each in its own unit"


def said(
    gap: Difference,
    *claims: Claim,
    kind: Kind = "mean",
    shares: tuple[str, ...] = ("math", "text"),
    scaled: bool = False,
) -> str:
    objective = Objective(TWO, frozenset({"text"}) - set(shares), kind)
    display = DisplayScore(objective, {"math": (0.2, 0.9), "text": (12.0, 9.0)} if scaled else {})
    rows = {"trial:1": {"math": 0.6, "text": 11.0}, "parent:a": {"math": 0.8, "text": 10.0}}
    return verdict(scored_models(objective, rows, display=display), {"parent:a": gap}, claims, shares=shares)


@pytest.mark.parametrize(
    ("gap", "shares", "scaled", "text"),
    [
        (Difference(0.02, 0.005, 100, 0.001), ("math", "text"), False, "(+2.0 ± 1.0 points, p = 0.001)"),
        (Difference(0.02, 0.005, 100, 1e-9), ("math",), False, f"(+0.0200 ± 0.0098 {MIXED}, p < 0.0001)"),
        (Difference(120.4, 30.0, 100, 1e-9), (), False, f"(+120 ± 59 {MIXED}, p < 0.0001)"),
        (
            Difference(0.02, 0.005, 100, 1e-9),
            ("math", "text"),
            True,
            "(+0.0200 ± 0.0098 on a scale from 0, the worst model, to 1, the best, p < 0.0001)",
        ),
        (Difference(0.02, math.inf, 1, 1.0), ("math", "text"), False, "(+2.0 points). Keep parent:a."),
        (Difference(2.0, math.inf, 1, 1.0), (), False, f"(+2 {MIXED}). Keep parent:a."),
        (Difference(0.0, 0.0, 100, 1.0), (), False, f"(+0.000 ± 0.000 {MIXED}). Keep parent:a."),
    ],
)
def test_units_and_margins(gap: Difference, shares: tuple[str, ...], scaled: bool, text: str) -> None:
    sentences = said(gap, shares=shares, scaled=scaled)
    assert text in sentences
    assert ("The score is a mean, with each task scaled from 0" in sentences) == scaled


def test_a_task_alone_keeps_its_unit_without_a_word() -> None:
    rows = {"trial:1": {"text": 9.0}, "parent:a": {"text": 10.0}}
    models = scored_models(Objective({"text": 1.0}, frozenset({"text"})), rows)
    said = verdict(models, {"parent:a": Difference(1.0, 0.1, 100, 1e-9)}, (), shares=())
    assert "beats the best-scoring parent, parent:a, on held-out examples (+1.00 ± 0.20, p < 0.0001)." in said


def test_a_change_of_what_should_be_less_says_which_way_it_went() -> None:
    # Tokens: 11.5 fewer than 40 is better, 3 more is worse.
    for gain, text in ((11.5, "better on text (11.50 ± 0.98 lower)"), (-3.0, "worse on text (3.00 ± 0.98 higher)")):
        claim = Claim("text", "parent:a", Difference(gain, 0.5, 50, 1e-9, bounds=(gain - 0.98, gain + 0.98)), 1e-9)
        assert text in said(Difference(0.1, 0.05, 100, 0.05), claim, shares=("math",))


def test_how_many_examples_would_show_it() -> None:
    # 2.80 squared times a variance of 100 x 0.05 squared, by 0.02 squared.
    assert "or evaluate on at least 4,906 examples." in said(Difference(0.02, 0.05, 100, 0.6))
    # The same variance, by 0.005 squared.
    asked = said(Difference(0.001, 0.05, 100, 0.98))
    assert "or evaluate on at least 78,489 examples, which would show a gap of 0.5 points." in asked


def test_the_worst_task_in_its_own_unit_or_as_a_share() -> None:
    # The parent: 0.8 on math, and 10 on text, where less is better; the winner 0.6 and 11.
    gap = Difference(-0.1, 0.05, 100, 0.05)
    worst = "The worst task of trial:1 on held-out examples is"
    assert f"{worst} text, against parent:a: 1.000 ± 0.027 higher." in said(gap, kind="chebyshev", shares=("math",))
    in_percent = f"{worst} math, against parent:a: -20.0 ± 0.0 points, a change of -25.0 %."
    assert in_percent in said(gap, kind="retention", shares=("math",))
    assert "worst task" not in said(gap)


@pytest.mark.parametrize(("weight", "worst"), [(1.0, "text"), (4.0, "math")])
def test_the_worst_task_is_the_one_that_the_objective_measures(weight: float, worst: str) -> None:
    # Weighted, a fall by 0.2 on math is worse than one by 0.3 on text. The claims name other parents and falls.
    rows = {
        "trial:1": {"math": 0.6, "text": 0.5},
        "parent:a": {"math": 0.8, "text": 0.1},
        "parent:b": {"math": 0.1, "text": 0.8},
    }
    leads = dict.fromkeys(("parent:a", "parent:b"), Difference(0.1, 0.05, 100, 0.05))
    claims = [
        Claim("math", "parent:b", Difference(0.5, 0.01, 50, 1e-9), 1e-9),
        Claim("text", "parent:a", Difference(0.4, 0.01, 50, 1e-9), 1e-9),
    ]
    models = scored_models(Objective({"math": weight, "text": 1.0}, kind="chebyshev"), rows)
    text = verdict(models, leads, claims, shares=TWO)
    fall = {
        "math": "math, against parent:a: -20.0 ± 0.0 points.",
        "text": "text, against parent:b: -30.0 ± 0.0 points.",
    }
    assert f"The worst task of trial:1 on held-out examples is {fall[worst]}" in text


def test_task_by_task_names_the_split_that_chose_the_parents_and_the_correction() -> None:
    claim = Claim("math", "parent:a", Difference(0.2, 0.01, 50, 1e-9), 1e-9)
    assert (
        "Task by task, against the best parent on each, chosen on the select split (paired tests, Holm-corrected 5 % "
        "level): better on math (+20.0 ± 2.0 points)."
    ) in said(Difference(0.1, 0.05, 100, 0.05), claim)


@pytest.mark.parametrize(
    ("score_b", "p", "text"),
    [
        (0.69, 0.001, "trial:1 beats the best-scoring parent that meets the constraints, parent:b,"),
        (
            0.69,
            0.6,
            "No merge was shown to be better than the best-scoring parent that meets the constraints, parent:b, on",
        ),
        (
            0.5,
            0.001,
            "the best-scoring parent, parent:a, on held-out examples (+5.0 ± 9.8 points, p = 0.001). No parent meets",
        ),
        (0.5, 0.6, "(+5.0 ± 9.8 points). No parent meets the constraints on held-out examples."),
    ],
)
def test_only_a_parent_that_keeps_what_was_asked_is_to_beat_and_to_keep(score_b: float, p: float, text: str) -> None:
    # By the score a is better than b, and b than c.
    objective = Objective({"math": 1.0, "text": 3.0}, keep={"math": Floor(0.02), "text": Floor(0.2)})
    rows = {
        "trial:1": {"math": 0.7, "text": 0.8},
        "parent:a": {"math": 0.45, "text": 0.9},
        "parent:b": {"math": score_b, "text": 0.75},
        "parent:c": {"math": 0.7, "text": 0.1},
    }
    ahead = {"parent:a": 0.05, "parent:b": 0.02, "parent:c": 0.1}
    leads = {label: Difference(lead, 0.05, 100, p) for label, lead in ahead.items()}
    said = verdict(scored_models(objective, rows), leads, (), shares=TWO)
    assert text in said
    assert "Keep parent:a" not in said


@pytest.mark.parametrize(("kept", "said_so"), [(0.91, True), (0.89, False)])
def test_a_share_that_was_asked_for_is_one_of_what_the_parent_scores(kept: float, said_so: bool) -> None:
    # The parent scores 0.8 on math; 0.72, which the winner has, is 90 % of it, and 10 points less would be 0.62.
    claim = Claim("math", "parent:a", Difference(-0.08, 0.01, 50, 1e-9), 1e-9)
    rows = {
        "trial:1": {"math": 0.72, "text": 0.8},
        "parent:a": {"math": 0.8, "text": 0.3},
        "parent:b": {"math": 0.72, "text": 0.3},
    }
    leads = dict.fromkeys(("parent:a", "parent:b"), Difference(0.1, 0.01, 100, 1e-9))
    models = scored_models(Objective(TWO, keep={"math": Floor(kept, "share")}), rows)
    said = verdict(models, leads, [claim], shares=TWO, keeps=False)
    fell = f"math {100 * kept:g}% (-8.0 ± 0.0 points, against parent:a)."
    assert said.startswith(f"trial:1 violates a constraint on held-out examples: {fell}") == said_so
    assert "trial:1 came closest." in said
    assert f"No finalist met all constraints (math {100 * kept:g}%)" in said
    assert ("the best-scoring parent that meets the constraints, parent:a," in said) == said_so  # 0.72 is one, by 89 %


@pytest.mark.parametrize(("changed", "judged"), [(0, True), (2, True), (3, False)])
def test_a_task_that_changes_by_itself_is_not_judged(changed: int, judged: bool) -> None:
    claims = (
        Claim("math", "parent:a", Difference(0.2, 0.01, 50, 1e-9), 1e-9),
        Claim("text", "parent:b", Difference(-0.1, 0.01, 50, 1e-9), 1e-9),
    )
    rows = {"trial:1": {"math": 0.6, "text": 0.5}, "parent:a": {"math": 0.4, "text": 0.5}}
    leads = {"parent:a": Difference(0.1, 0.01, 100, 1e-9)}
    repeat = Repeat(
        "parent:a", {"math": 0, "text": changed}, {"math": 50, "text": 40}, {"math": 0.0, "text": 0.0123}, 0.11
    )
    said = verdict(scored_models(Objective(TWO), rows), leads, claims, shares=TWO, repeat=repeat)
    assert "better on math (+20.0 ± 2.0 points)" in said
    assert ("worse on text" in said) == judged
    sentence = (
        "Scoring text twice gave different values (3 of 40 examples, mean shift +0.012), so its differences are not "
        "judged."
    )
    assert (sentence in said) != judged
