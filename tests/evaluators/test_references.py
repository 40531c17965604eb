"""References that no continuation can equal are noted before anything is scored."""

from pathlib import Path
from typing import Any

import pytest

from evaluators.base import EvaluatorError
from evaluators.exact_match import ExactMatch
from tests.evaluators.tiny_llama import TinyModel, write_lines

#: Whatever the settings below, one of these can be written.
REACHABLE = [["7", "a"], ["8", "a"]]


def _notes(tmp_path: Path, model: TinyModel, answers: list[Any], **options: Any) -> tuple[str, ...]:
    rows = [{"prompt": f"p{i}", "answer": answer} for i, answer in enumerate(answers)]
    return ExactMatch(file=str(write_lines(tmp_path / "r.jsonl", rows)), **options).preflight(model)


@pytest.mark.parametrize(
    ("answer", "options", "reason"),
    [
        ("a\nb", {}, r"contain '\\n', which ends a continuation"),
        ("a.b", {"stop": ["!", "."]}, r"contain '\.'"),
        ("abcdef", {"max_new_tokens": 5}, "more than 5 tokens"),
        ("1,000", {"extract": r"(\d+)"}, r"`extract: \(\\d\+\)` never yields them"),
        ("seven", {"extract": r"\d+"}, "never yields them"),
        ("b", {"extract": r"([^b\]]|[)(]) end"}, "never yields them"),
        ("été", {}, "no tokens for some of their characters"),
    ],
)
def test_answers_out_of_reach_are_noted(
    tmp_path: Path, model: TinyModel, answer: str, options: dict[str, Any], reason: str
) -> None:
    (note,) = _notes(tmp_path, model, [*REACHABLE, answer], **options)
    assert note.startswith("the answers of 1 of 3 examples")
    with pytest.raises(EvaluatorError, match=f"No example can score: .*{reason}"):
        _notes(tmp_path, model, [answer], **options)


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        ("7", {}),
        (" 7\n", {}),
        ("7", {"extract": r"#### (\d+)"}),
        ("1,000", {"extract": r"#### (-?[\d,.]+)"}),
        ("7", {"extract": r"(?<=answer )\d+"}),
        ("seven", {"extract": r"is (?:the )?(?P<word>[a-z]+)"}),
        ("YES", {"extract": r"(yes|no)", "ignore_case": True}),
        ("abcdef", {"max_new_tokens": 6}),
        (["a\nb", "ab"], {}),
        ("(", {"extract": r"<([(])>"}),
    ],
)
def test_answers_in_reach_are_not(tmp_path: Path, model: TinyModel, answer: Any, options: dict[str, Any]) -> None:
    assert _notes(tmp_path, model, [answer], **options) == ()
