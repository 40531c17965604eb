"""Examples that no answer can be right or wrong for are found before a search, whatever their split."""

import copy
from pathlib import Path
from typing import Any

import pytest

from evaluators.base import EvaluatorError
from evaluators.exact_match import ExactMatch
from evaluators.generated_tokens import GeneratedTokens
from evaluators.multiple_choice import MultipleChoice
from evaluators.perplexity import Perplexity
from tests.evaluators.tiny_llama import TinyModel, write_lines

SOUND = {"prompt": "a", "choices": ["b", "c"], "answer": "b", "text": "abc"}


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (MultipleChoice, "answer"),
        (MultipleChoice, "choices"),
        (MultipleChoice, "prompt"),
        (ExactMatch, "answer"),
        (ExactMatch, "prompt"),
        (GeneratedTokens, "prompt"),
        (Perplexity, "text"),
    ],
)
def test_null_fields_are_refused_with_their_line(tmp_path: Path, kind: Any, field: str) -> None:
    """`null` would be scored as the text "None"."""
    rows = [{**SOUND, "prompt": f"{i}", field: None if i == 7 else SOUND[field]} for i in range(9)]
    file = write_lines(tmp_path / "data.jsonl", rows)
    with pytest.raises(EvaluatorError, match=rf"data\.jsonl, line 8: {field} is null"):
        kind(file=str(file))


def test_null_fields_of_a_template_are_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "data.jsonl", [SOUND, {**SOUND, "prompt": None}])
    with pytest.raises(EvaluatorError, match=r"data\.jsonl, line 2: prompt is null"):
        ExactMatch(file=str(file), template="Q: {prompt}")
    assert ExactMatch(file=str(file), template="Q: {text}").example_ids


def test_texts_without_a_token_to_score_are_refused(tmp_path: Path, model: TinyModel) -> None:
    file = write_lines(tmp_path / "data.jsonl", [{"text": "abc"}, {"text": "a"}])
    evaluator = Perplexity(file=str(file))
    assert evaluator.preflight(model) == ()
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(EvaluatorError, match=r"Example 1 \(from 0\), 'a', has no token to score"):
        evaluator.preflight(TinyModel(model.network, tokenizer, model.folder))
