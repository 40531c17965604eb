from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.base import Evaluator, EvaluatorError
from evaluators.multiple_choice import MultipleChoice
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines


class TestMultipleChoice(EvaluatorContract):
    @pytest.fixture
    def build(self, questions: Path) -> Callable[[], Evaluator]:
        return lambda: MultipleChoice(file=str(questions))


def _loglikelihood(model: TinyModel, prompt: str, choice: str) -> float:
    """One row, full logits, float64: what the engine must equal."""
    head, whole = model.tokenizer.encode(prompt), model.tokenizer.encode(f"{prompt} {choice}")
    with torch.no_grad():
        scores = model.network(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return float(sum(scores[i - 1, whole[i]] for i in range(len(head), len(whole))))


def test_likelihoods_equal_those_of_one_row_at_a_time(model: TinyModel, questions: Path) -> None:
    evaluator = MultipleChoice(file=str(questions))
    scores = evaluator.score(model)
    assert scores.choices is not None
    for prompt, texts, found in zip(evaluator._prompts, evaluator._choices, scores.choices, strict=True):
        np.testing.assert_allclose(found, [_loglikelihood(model, prompt, t) for t in texts], atol=1e-4)


def test_the_right_answer_is_told_by_index_or_text(model: TinyModel, questions: Path, tmp_path: Path) -> None:
    choices = MultipleChoice(file=str(questions)).score(model).choices
    assert choices is not None
    best = int(np.argmax(choices[1]))
    texts = MultipleChoice(file=str(questions))._choices[1]
    prompt = MultipleChoice(file=str(questions))._prompts[1]
    answers = [best, texts[best], (best + 1) % len(texts)]
    rows = [{"prompt": prompt, "choices": texts, "answer": answer} for answer in answers]
    scores = MultipleChoice(file=str(write_lines(tmp_path / "three.jsonl", rows))).score(model)
    assert scores.values.tolist() == [1.0, 1.0, 0.0]


def test_normalizing_divides_by_characters_or_bytes(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "choices": ["ab", "äöü"], "answer": 0}]
    file = str(write_lines(tmp_path / "one.jsonl", rows))
    lengths = [MultipleChoice(file=file, normalize=how)._lengths[0].tolist() for how in ("none", "length", "bytes")]
    assert lengths == [[1, 1], [2, 3], [2, 6]]


def test_a_template_replaces_the_prompt_field(questions: Path) -> None:
    evaluator = MultipleChoice(file=str(questions), template="Q: {question}\nA:")
    assert evaluator._prompts[2] == "Q: Item 2: which which ?\nA:"


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"choices": ["a", "b"], "answer": 0},
            {},
            "line 1 has no field 'prompt'; it has 'choices', 'answer'",
        ),
        (
            {"prompt": "p", "choices": ["a", "b"], "answer": 2},
            {},
            "answer is 2; expected an index from 0 to 1",
        ),
        ({"prompt": "p", "choices": ["a", "b"], "answer": True}, {}, "answer is True"),
        ({"prompt": "p", "choices": [], "answer": 0}, {}, "choices is \\[\\]"),
        ({"prompt": "p", "choices": ["a"], "answer": 0}, {"template": "{q}"}, "does not fit the template"),
        ({"prompt": "p", "choices": ["a"], "answer": 0}, {"normalize": "words"}, "normalize is 'words'"),
        ({"prompt": "p", "choices": ["a"], "answer": 0}, {"limit": 0}, "limit is 0"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    file = write_lines(tmp_path / "bad.jsonl", [row])
    with pytest.raises(EvaluatorError, match=message):
        MultipleChoice(file=str(file), **options)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(EvaluatorError, match=r"nowhere\.jsonl does not exist"):
        MultipleChoice(file="nowhere.jsonl")


def test_another_tokenizer_means_other_tokens(model: TinyModel, questions: Path) -> None:
    shifted = AutoTokenizer.from_pretrained(model.folder)
    shifted.add_tokens(["which", "Item"])
    network = AutoModelForCausalLM.from_pretrained(model.folder).eval()
    network.resize_token_embeddings(len(shifted), mean_resizing=False)
    other = TinyModel(network, shifted, model.folder)
    evaluator = MultipleChoice(file=str(questions))
    evaluator.score(model)
    again, fresh = evaluator.score(other).choices, MultipleChoice(file=str(questions)).score(other).choices
    assert again is not None
    assert fresh is not None
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(fresh))
    before = MultipleChoice(file=str(questions)).score(model).choices
    assert before is not None
    assert np.abs(np.concatenate(again) - np.concatenate(before)).max() > 1e-3
