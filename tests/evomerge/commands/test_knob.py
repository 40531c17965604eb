"""What `pick --knob` says of positions along a front, and what it must not say."""

import re
from pathlib import Path

import pytest

from evomerge.commands.decision import Decision
from evomerge.commands.knob import Mixture, find, shown, shown_steps
from evomerge.commands.pick import Request
from evomerge.objective import Floor, Objective
from evomerge.results.pick import ChoiceError
from evomerge.run import Run
from evomerge.study import Study
from tests.evomerge.report.fronts import SEARCH, finish, write_front


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Front of the search split: 5, 8, 6, 7; of select and report: 8, 7."""
    study = write_front(tmp_path / "study", SEARCH)
    finish(study, {8: (7, 4), 7: (1, 9)}, {8: (6, 4), 7: (2, 9)})
    return tmp_path / "study"


def test_between_two_merges_no_score_is_claimed(folder: Path) -> None:
    run = Run(folder)
    found = find(run, Request(knob=0.25))
    assert isinstance(found, Mixture)
    assert found.shares == {"trial:8": 0.75, "trial:7": 0.25}
    data, lines = shown(run, found)
    assert data["evaluated"] is False
    assert "score" not in data
    assert [(each["label"], each["share"]) for each in data["neighbors"]] == [("trial:8", 0.75), ("trial:7", 0.25)]
    assert lines[0] == (
        "At 0.25 along the front of the select split, from best on math to best on chat, no merge was scored: the "
        "coefficients are interpolated, 0.75 of trial:8 and 0.25 of trial:7, and the scores are unknown."
    )
    assert re.search(r"  math: trial:8 0\.700 ± [\d.]+, trial:7 0\.100 ± ", "\n".join(lines))
    assert lines[-1] == f"To export it: evomerge export {folder} --knob 0.25 -o DIR"


def test_a_scored_merge_is_shown_as_by_its_number(folder: Path) -> None:
    run = Run(folder)
    found = find(run, Request(knob=0.0))
    assert isinstance(found, Decision)
    data, lines = shown(run, found)
    assert (data["evaluated"], data["label"], data["report"]["split"]) == (True, "trial:8", "report")
    assert lines[0].endswith("from best on math to best on chat, the merge is trial:8, which was scored.")
    assert lines[-1] == f"To export it: evomerge export {folder} --trial 8 -o DIR"


def test_the_command_keeps_split_and_tasks(folder: Path) -> None:
    run = Run(folder)
    found = find(run, Request(knob=0.5, split="search", between="chat,math"))
    assert isinstance(found, Mixture)
    assert found.command.endswith("--knob 0.5 --between chat,math --split search")
    assert [note for note in found.notes if "optimistic" in note]


def test_steps_say_which_were_scored(folder: Path) -> None:
    data, lines = shown_steps(Run(folder), Request(), 3)
    assert [step["evaluated"] for step in data["steps"]] == [True, False, True]
    assert lines[1:4] == [
        "  0.000  trial:8, scored: math 0.7, chat 0.4",
        "  0.500  0.50 trial:8 + 0.50 trial:7, interpolated",
        "  1.000  trial:7, scored: math 0.1, chat 0.9",
    ]
    assert lines[4].startswith("2 of them are scored merges; the others are interpolated")


def test_a_position_on_the_report_split_is_recorded(folder: Path) -> None:
    def looks() -> list[dict]:
        return [data for kind, data in Study.read(folder).events if kind == "report_split_read"]

    assert len(looks()) == 1
    shown_steps(Run(folder), Request(split="report"), 3)
    assert len(looks()) == 2
    find(Run(folder), Request(split="report", knob=0.5))
    assert looks()[2] == {"winner": "knob 0.5", "reason": "chosen on it: a position on its front"}


def test_constraints_that_neighbors_violate_are_named(tmp_path: Path) -> None:
    keeping = Objective({"math": 1.0, "chat": 1.0}, kind="pareto", keep={"chat": Floor(0.3)})  # of parent:chat's 0.8
    write_front(tmp_path / "study", SEARCH, keeping).close()
    notes = find(Run(tmp_path / "study"), Request(knob=0.1)).notes
    assert "The study's constraints (chat -0.3) are violated by trial:5 and trial:8." in notes
    assert not [note for note in find(Run(tmp_path / "study"), Request(knob=0.9)).notes if "violated" in note]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(knob=0.5, prefer="math=1"), "leave out --trial, --predicted, --nearest and all preferences"),
        (Request(knob=0.5, trial=3), "leave out --trial"),
        (Request(knob=0.5, between="math"), "--between names two tasks, such as math,chat; got 'math'"),
        (Request(knob=0.5, between="math,caht"), "Did you mean 'chat'"),
        (Request(knob=0.5, split="test"), "--split is one of"),
        (Request(knob=1.5), "from 0, best on math, to 1, best on chat; got 1.5"),
    ],
)
def test_what_cannot_be_turned_to(folder: Path, request_: Request, said: str) -> None:
    with pytest.raises(ChoiceError) as caught:
        find(Run(folder), request_)
    assert said in str(caught.value)
