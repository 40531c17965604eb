"""What `pick` decides on, what it says about it, and when it counts a look at the report split."""

import json
from pathlib import Path

import numpy as np
import pytest

from evomerge.commands.decision import decision_lines, decision_to_dict, scores_for_card
from evomerge.commands.knob import Mixture
from evomerge.commands.pick import Request, decide, number_to_write
from evomerge.commands.pick_interactively import ask_for_choice, read_answer
from evomerge.objective import Floor, Objective
from evomerge.results.pick import ChoiceError
from evomerge.run import Run
from evomerge.statistics import difference
from evomerge.study import Study, StudyError
from tests.evomerge.report.fronts import SEARCH, finish, trial, values, write_front

#: On select, 8 is ahead of 6 on both tasks.
SELECT = {"parent:math": (8, 3), "parent:chat": (2, 8), 6: (4, 4), 8: (6, 5)}
#: On report, parent:chat is lucky on math.
REPORT = {"parent:math": (4, 2), "parent:chat": (5, 9), 8: (5, 6)}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    finish(write_front(tmp_path / "study", SEARCH), SELECT, REPORT)
    return tmp_path / "study"


def looks(run: Path) -> list[dict]:
    return [dict(data) for kind, data in Study.read(run).events if kind == "report_split_read"]


def test_select_decides_once_finalists_are_scored_there(finished: Path, tmp_path: Path) -> None:
    searched = write_front(tmp_path / "searched", SEARCH)
    finish(searched, {"parent:math": (8, 3)}, {})  # a parent is no finalist
    early = decide(Run(tmp_path / "searched"), Request())
    assert (early.point.number, early.views[0].front.split) == (6, "search")
    assert "selection optimism" in early.notes[0]
    late = decide(Run(finished), Request())
    assert (late.point.number, late.views[0].front.split) == (8, "select")
    assert not any("selection optimism" in note for note in late.notes)
    assert decide(Run(finished), Request(split="search")).point.number == 6


def test_differences_are_paired_with_the_best_parent_of_each_task(finished: Path) -> None:
    data = decision_to_dict(decide(Run(finished), Request()), finished)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    chat = data["tasks"]["chat"]
    assert (chat["mean"], chat["best_model"]) == (0.5, "parent:chat")
    gap = difference({"chat": values(5)}, {"chat": values(8)})
    assert chat["ahead"]["mean"] == pytest.approx(-0.3)
    assert chat["ahead"]["interval"] == pytest.approx(list(gap.interval))
    assert chat["ahead"]["p"] == gap.p
    assert data["report"]["split"] == "report"
    math = data["report"]["tasks"]["math"]
    assert (math["best_model"], math["ahead"]["mean"]) == ("parent:math", pytest.approx(0.5 - 0.4))
    assert data["next"] == f"evomerge export {finished} --trial 8 -o DIR"


def test_the_keys_of_the_json_stay(finished: Path) -> None:
    data = decision_to_dict(decide(Run(finished), Request(keep=("chat>=0.1",))), finished)
    assert set(data) >= {
        *("label", "number", "kind", "sentence", "met", "constraints", "weights", "split", "score"),
        *("tasks", "on_front", "probability", "shrunk", "report", "notes", "recipe", "next"),
    }
    assert list(data["constraints"][0]) == ["text", "task", "limit", "value", "missed_by"]
    assert set(data["tasks"]["chat"]) >= {
        *("mean", "standard_error", "interval", "n_examples", "best_model", "ahead"),
    }


def test_the_score_is_that_of_the_given_weights(finished: Path) -> None:
    decided = decide(Run(finished), Request(prefer="math=3"))
    data = decision_to_dict(decided, finished)
    assert (data["label"], data["weights"]) == ("trial:8", {"math": 3.0})
    for split in (data, data["report"]):
        assert split["score"] == {key: split["tasks"]["math"][key] for key in split["score"]}
    assert "  score by math=3 0.600 ±" in "\n".join(decision_lines(decided, finished))
    both = decision_to_dict(decide(Run(finished), Request(prefer="math=1,chat=3")), finished)
    assert both["score"]["mean"] == pytest.approx((0.6 + 3 * 0.5) / 4)


def test_a_parent_that_scores_higher_by_the_same_measure_is_named(finished: Path) -> None:
    for asked, scores in (
        (Request(prefer="math=3"), "this measure, parent:math scores higher on the select split: 0.8 against 0.6."),
        (Request(best_at="chat"), "this measure, parent:chat scores higher on the select split: 0.8 against 0.5."),
        (Request(trial=6), "the study's own score, parent:math scores higher on the select split: 0.55 against 0.40."),
    ):
        decided = decide(Run(finished), asked)
        (note,) = [note for note in decided.notes if "scores higher" in note]
        assert note == f"By {scores}"
        assert scores_for_card(decided)["choice"].endswith(note)
    for silent in (Request(), Request(prefer="math=3", keep=("chat>=0.4",))):
        assert not [note for note in decide(Run(finished), silent).notes if "scores higher" in note]


def test_a_choice_on_the_report_split_is_counted(finished: Path) -> None:
    assert len(looks(finished)) == 1
    decide(Run(finished), Request(best_at="math"))
    decide(Run(finished), Request(trial=8, split="report"))
    with pytest.raises(ChoiceError):
        decide(Run(finished), Request(split="report", best_at="meth"))
    decide(Run(finished), Request(split="report", keep=("math>=0.9",)))  # leads to nothing
    assert len(looks(finished)) == 1
    decided = decide(Run(finished), Request(split="report", best_at="chat"))
    assert looks(finished)[1:] == [{"winner": "trial:8", "reason": "chosen on it: the best on chat"}]
    assert any("the study records this" in note for note in decided.notes)


def test_a_choice_on_a_running_study_is_not_recorded_but_noted(finished: Path) -> None:
    before = (finished / "ledger.jsonl").read_bytes()
    running = Study.open(finished)
    try:
        opened = (finished / "ledger.jsonl").read_bytes()
        decided = decide(Run(finished), Request(split="report"))
        assert (finished / "ledger.jsonl").read_bytes() == opened != before
        assert any("not recorded" in note for note in decided.notes)
    finally:
        running.close()


def test_an_unfinished_study_is_not_touched(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study", SEARCH)
    study.ask(trial(study.next_number, 8))
    finish(study, SELECT, REPORT)
    before = (tmp_path / "study" / "ledger.jsonl").read_bytes()
    decided = decide(Run(tmp_path / "study"), Request(split="report"))
    assert any("not finished, so this is not recorded" in note for note in decided.notes)
    assert (tmp_path / "study" / "ledger.jsonl").read_bytes() == before


def test_a_trial_by_its_number(finished: Path) -> None:
    named = decide(Run(finished), Request(trial=8))
    assert [view.front.split for view in named.views] == ["select", "report"]
    # 5 was no finalist: it is shown as it was searched on. A finalist's trial on select is the same merge.
    assert decide(Run(finished), Request(trial=5)).views[0].front.split == "search"
    on_select = next(e.trial.number for e in Study.read(finished).told if e.trial.label == "trial:8")
    assert decide(Run(finished), Request(trial=on_select)).point.number == 8
    with pytest.raises(StudyError, match=r"Trial 99 is not in .* its front: 5, 6, 7, 8, 9"):
        decide(Run(finished), Request(trial=99))
    with pytest.raises(ChoiceError, match="leave out --prefer"):
        decide(Run(finished), Request(trial=8, knee=True))


def test_a_merge_that_violates_constraints_is_written_only_with_nearest(finished: Path) -> None:
    request = Request(best_at="math", keep=("chat>=0.9",))
    decision = decide(Run(finished), request)
    assert not decision.chosen.met
    assert any("--split search" in note for note in decision.notes)
    with pytest.raises(ChoiceError, match=r"nearest is trial:8. chat>=0.9: required 0.9, got 0.5, violated by 0.4"):
        number_to_write(decision, request)
    assert number_to_write(decision, Request(best_at="math", keep=("chat>=0.9",), nearest=True)) == 8


def test_a_dominated_choice_is_noted(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study", {"parent:math": (8, 8), "base": (1, 1), 2: (7, 8), 3: (9, 1)})
    study.close()
    decided = decide(Run(tmp_path / "study"), Request(best_at="chat"))
    assert "It is dominated by parent:math." in decided.notes
    assert not any("dominated" in note for note in decide(Run(tmp_path / "study"), Request(best_at="math")).notes)


def test_the_card_states_reason_and_splits(finished: Path) -> None:
    rows = scores_for_card(decide(Run(finished), Request(best_at="math")))
    assert rows["choice"].startswith("On the select split, trial:8 is the best on math. By this measure, parent:math ")
    assert rows["trial:8, select"] == {
        "split": "select",
        "examples": 20,
        **_score(rows, "select"),
        "math": 0.6,
        "chat": 0.5,
    }
    assert (rows["trial:8, report"]["math"], rows["trial:8, report"]["chat"]) == (0.5, 0.6)


def _score(rows: dict, split: str) -> dict:
    assert rows[f"trial:8, {split}"]["score"] == pytest.approx(0.55)
    return {key: rows[f"trial:8, {split}"][key] for key in ("score", "low", "high")}


def test_the_lines_name_both_splits(finished: Path) -> None:
    text = "\n".join(decision_lines(decide(Run(finished), Request()), finished))
    assert text.index("On the select split (10 examples per task)") < text.index("On the report split")
    assert "-0.300 ±" in text
    assert "against parent:chat" in text


@pytest.mark.parametrize(
    ("answer", "request_"),
    [
        ("7", Request(trial=7)),
        ("knee", Request(knee=True)),
        ("math=2, chat = 1", Request(prefer="math=2,chat=1")),
        ("chat >= -1pt", Request(keep=("chat>=-1pt",))),
        ("max math chat>=0.5,math<=1", Request(best_at="math", keep=("chat>=0.5", "math<=1"))),
        ("knee chat>=0.5", Request(knee=True, keep=("chat>=0.5",))),
        ("knob 0.3", Request(knob=0.3)),
        ("knob .3 math, chat", Request(knob=0.3, between="math, chat")),
    ],
)
def test_interactive_answers_become_requests(answer: str, request_: Request) -> None:
    assert read_answer(answer, None) == request_


def test_invalid_interactive_answers_are_errors() -> None:
    for answer in ("", "best", "max", "knee knee", "max math chat", "knob", "knob math"):
        with pytest.raises(ChoiceError, match="Cannot read"):
            read_answer(answer, None)


def test_asking_goes_on_until_one_is_taken(finished: Path) -> None:
    said: list[str] = []
    answers = iter(["nonsense", "math=1,caht=1", "max math", "n", "6", "y"])
    assert ask_for_choice(Run(finished), "search", lambda _: next(answers), said.append) == 6
    text = "\n".join(said)
    assert text.index("    6  math 0.600") < text.index("Cannot read 'nonsense'") < text.index("Did you mean 'chat'?")
    assert text.index("trial:5 is the best on math") < text.index("trial:6, as requested.")
    assert ask_for_choice(Run(finished), None, lambda _: "q", said.append) is None


def test_a_position_between_two_merges_is_taken_too(finished: Path) -> None:
    said: list[str] = []
    answers = iter(["knob 2", "knob 0.5", "y"])
    taken = ask_for_choice(Run(finished), "search", lambda _: next(answers), said.append)
    assert isinstance(taken, Mixture)
    assert taken.setting.t == 0.5
    assert [line for line in said if "got 2" in line]
    assert [line for line in said if "the scores are unknown" in line]


def test_x_is_that_of_the_trial(finished: Path) -> None:
    number = decide(Run(finished), Request()).point.number
    assert np.array_equal(Study.read(finished).entries[number].trial.x, [8 / 20, 0.5])


def test_a_choice_that_violates_the_study_constraints_is_noted(tmp_path: Path) -> None:
    keeping = Objective({"math": 1.0, "chat": 1.0}, kind="pareto", keep={"chat": Floor(0.3)})  # of parent:chat's 0.8
    study = write_front(tmp_path / "study", SEARCH, keeping)
    study.close()
    said = " ".join(decide(Run(study.folder), Request(best_at="math")).notes)
    assert "It violates the study's constraints (chat -0.3)" in said
    assert "the study keeps" not in " ".join(decide(Run(study.folder), Request(best_at="chat")).notes)
    assert "the study keeps" not in " ".join(
        decide(Run(study.folder), Request(best_at="math", keep=("math>=0.9",))).notes
    )
