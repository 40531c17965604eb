from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator, EvaluatorError
from evaluators.exact_match import ExactMatch
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines


def _write(model: TinyModel, prompt: str, length: int) -> str:
    """Greedy decoding by hand: one full forward per token, no cache, no padding, no generate."""
    tokens = model.tokenizer.encode(prompt)
    n_prompt = len(tokens)
    with torch.no_grad():
        for _ in range(length):
            tokens.append(int(model.network(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == model.tokenizer.eos_token_id:
                break
    return model.tokenizer.decode(tokens[n_prompt:], skip_special_tokens=True)


@pytest.fixture(scope="module")
def own_words(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every other answer is what `model` writes by itself."""
    prompts = [f"Say {'so ' * (i % 5)}{i}" for i in range(10)]
    rows = [{"prompt": p, "answer": _write(model, p, 6) if i % 2 else "~"} for i, p in enumerate(prompts)]
    return write_lines(tmp_path_factory.mktemp("data") / "own.jsonl", rows)


class TestExactMatch(EvaluatorContract):
    @pytest.fixture
    def build(self, own_words: Path) -> Callable[[], Evaluator]:
        return lambda: ExactMatch(file=str(own_words), max_new_tokens=6, stop=())

    @pytest.fixture
    def learnable(self, tmp_path: Path) -> Callable[[], Evaluator]:
        file = write_lines(tmp_path / "next.jsonl", [{"prompt": f"{i}, then", "answer": str(i + 1)} for i in range(8)])
        return lambda: ExactMatch(file=str(file), max_new_tokens=6)


def test_writes_what_decoding_by_hand_writes(model: TinyModel, own_words: Path) -> None:
    scores = ExactMatch(file=str(own_words), max_new_tokens=6, stop=()).score(model)
    np.testing.assert_array_equal(scores.values, [i % 2 for i in range(10)])


def test_batches_do_not_change_what_is_written(model: TinyModel, own_words: Path) -> None:
    small = ExactMatch(file=str(own_words), max_new_tokens=6, stop=(), batch_tokens=1).score(model)
    np.testing.assert_array_equal(small.values, [i % 2 for i in range(10)])


def test_counts_what_the_length_limit_cut_and_not_what_a_stop_string_ended(model: TinyModel, own_words: Path) -> None:
    assert ExactMatch(file=str(own_words), max_new_tokens=6, stop=()).score(model).truncated == 10
    written = [_write(model, f"Say {'so ' * (i % 5)}{i}", 6) for i in range(10)]
    stop = written[3][:1]
    uncut = sum(stop not in text for text in written)
    assert 0 < uncut < 10
    assert ExactMatch(file=str(own_words), max_new_tokens=6, stop=stop).score(model).truncated == uncut


def test_text_from_the_stop_string_on_does_not_count(model: TinyModel, tmp_path: Path) -> None:
    written = _write(model, "Say 3", 6)
    file = write_lines(tmp_path / "cut.jsonl", [{"prompt": "Say 3", "answer": written[:2]}])
    assert written[2] not in written[:2]
    assert ExactMatch(file=str(file), max_new_tokens=6, stop=written[2], strip=False).score(model).mean == 1.0


@pytest.mark.parametrize(
    ("options", "answer", "equal"),
    [
        ({}, " 7 ", True),
        ({"strip": False}, " 7 ", False),
        ({"ignore_case": True}, "sEVEN 7", False),
        ({"extract": r"(\d+)"}, "first 3 then 7.", True),
        ({"extract": r"\d+"}, "none", False),
    ],
)
def test_how_texts_are_compared(tmp_path: Path, options: dict[str, Any], answer: str, equal: bool) -> None:
    file = write_lines(tmp_path / "one.jsonl", [{"prompt": "3+4=", "answer": ["7", "seven"]}])
    evaluator = ExactMatch(file=str(file), **options)
    assert (evaluator._compared.answer(answer) in evaluator._answers[0]) is equal


def test_case_can_be_ignored(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "one.jsonl", [{"prompt": "3+4=", "answer": "Seven"}])
    evaluator = ExactMatch(file=str(file), ignore_case=True)
    assert evaluator._compared.answer("sEVEN") in evaluator._answers[0]


def test_a_prompt_must_fit(model: TinyModel, own_words: Path) -> None:
    with pytest.raises(
        EvaluatorError, match=r"max_new_tokens is 256, and the model's context of 256 tokens .* expected 1 to 255"
    ):
        ExactMatch(file=str(own_words), max_new_tokens=256).score(model)


def test_a_bad_expression_is_refused_at_once(own_words: Path) -> None:
    with pytest.raises(EvaluatorError, match="not a regular expression"):
        ExactMatch(file=str(own_words), extract="(")
