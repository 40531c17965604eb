"""Answers that are numbers or letters: an index, an index counted from 1, a letter, or one of the choices."""

from pathlib import Path
from typing import Any

import pytest

from evaluators.base import EvaluatorError
from evaluators.multiple_choice import MultipleChoice
from tests.evaluators.tiny_llama import TinyModel, write_lines

DIGITS = [1, 2, 3, 4]


def _gold(tmp_path: Path, rows: list[tuple[list[Any], Any]], **options: Any) -> list[int]:
    return _evaluator(tmp_path, rows, **options)._gold


def _evaluator(tmp_path: Path, rows: list[tuple[list[Any], Any]], **options: Any) -> MultipleChoice:
    lines = [{"prompt": f"p{i}", "choices": choices, "answer": answer} for i, (choices, answer) in enumerate(rows)]
    return MultipleChoice(file=str(write_lines(tmp_path / "n.jsonl", lines)), **options)


def test_numbers_with_two_readings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluatorError, match=r"line 1: the answer 1 can be an index, meaning '2', or a choice, '1'"):
        _gold(tmp_path, [(DIGITS, 1), (DIGITS, 3)])


@pytest.mark.parametrize(("how", "gold"), [("index", [1, 3]), ("choice", [0, 2]), ("index_from_1", [0, 2])])
def test_answer_is_decides(tmp_path: Path, how: str, gold: list[int]) -> None:
    assert _gold(tmp_path, [(DIGITS, 1), (DIGITS, 3)], answer_is=how) == gold


@pytest.mark.parametrize(
    ("rows", "gold"),
    [
        ([(DIGITS, 1), (DIGITS, 4)], [0, 3]),  # 4 is no index: all are choices
        ([(DIGITS, 1), (DIGITS, 0)], [1, 0]),  # 0 is no choice: all are indices
        ([(["a", "b"], 1), (["a", "b"], "a")], [1, 0]),
        ([([0, 1, 2], 1), ([0, 1, 2], 2)], [1, 2]),  # both readings agree
        ([([0.5, 1.5], 1.5), (["x", "2.0"], 2)], [1, 1]),
        ([(["x", "y"], "A"), (["x", "y", "z"], "c")], [0, 2]),  # no letter is a choice: all are positions
        ([(["B", "A"], "A"), (["B", "A"], "B")], [1, 0]),  # a text that is a choice is one
    ],
)
def test_the_whole_file_decides(tmp_path: Path, rows: list[tuple[list[Any], Any]], gold: list[int]) -> None:
    assert _gold(tmp_path, rows) == gold


def test_a_limit_does_not_change_the_reading(tmp_path: Path) -> None:
    assert _gold(tmp_path, [(DIGITS, 1), (DIGITS, 4)], limit=1) == [0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [(["a", "b"], 1), (["a", "b"], 2)],
            {},
            "line 2: answer is 2; .* 0 to 1.*No answer is 0.*index_from_1",
        ),
        ([([5, 6], 5), ([5, 6], 0)], {}, "line 1: answer is 5.*no single reading fits all"),
        ([(["a", "b"], 0)], {"answer_is": "index_from_1"}, "expected an index from 1 to 2"),
        ([(["a", "b"], 0)], {"answer_is": "choice"}, r"expected one of \['a', 'b'\]"),
        ([(["a", "b"], 0)], {"answer_is": "word"}, "answer_is is 'word'; expected one of index"),
        (
            [(["x", "y"], "x"), (["x", "y"], "B")],
            {},
            "line 2: answer is 'B'.*names a position, set `answer_is: letter`",
        ),
        ([(["x", "y"], "1")], {}, "line 1: answer is '1'.*names a position, set `answer_is: index`"),
        ([(["x", "y"], "C")], {"answer_is": "letter"}, "a letter from A to B"),
    ],
)
def test_answers_that_fit_no_reading_are_refused(
    tmp_path: Path, rows: list[tuple[list[Any], Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvaluatorError, match=message):
        _gold(tmp_path, rows, **options)


def test_letters_read_as_positions_get_a_note(tmp_path: Path, model: TinyModel) -> None:
    rows: list[tuple[list[Any], Any]] = [(["a 1", "b 2"], letter) for letter in "BA"]
    (note,) = [note for note in _evaluator(tmp_path, rows).preflight(model) if "letters" in note]
    assert note.endswith("read as positions ('B' in " + f"{tmp_path / 'n.jsonl'}, line 1 is 'b 2')")
    assert _gold(tmp_path, [(["B", "A"], "A")], answer_is="letter") == [0]


def test_indices_that_seem_to_count_from_1_get_a_note(tmp_path: Path, model: TinyModel) -> None:
    rows: list[tuple[list[Any], Any]] = [(["a", "b", "c"], 1 + i % 2) for i in range(20)]
    notes = _evaluator(tmp_path, rows).preflight(model)
    assert any("none of its 20 answers is 0" in note for note in notes)
    assert not _evaluator(tmp_path, [*rows, (["a", "b", "c"], 0)]).preflight(model)
    assert not _evaluator(tmp_path, rows[:3]).preflight(model)
