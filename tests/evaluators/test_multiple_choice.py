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


class TestSmoothScore(EvaluatorContract):
    @pytest.fixture
    def build(self, questions: Path) -> Callable[[], Evaluator]:
        return lambda: MultipleChoice(file=str(questions), score="bits_per_byte")


class TestPermutedLetters(EvaluatorContract):
    @pytest.fixture
    def build(self, questions: Path) -> Callable[[], Evaluator]:
        return lambda: MultipleChoice(file=str(questions), lettered=True, permute_choices=3, score="probability")


@pytest.mark.parametrize("normalize", ["none", "length", "bytes"])
def test_smooth_scores_follow_from_the_log_likelihoods(model: TinyModel, questions: Path, normalize: str) -> None:
    plain = MultipleChoice(file=str(questions), normalize=normalize)  # type: ignore[arg-type]
    expected = plain.score(model)
    assert expected.choices is not None
    scores = {
        how: MultipleChoice(file=str(questions), normalize=normalize, score=how)  # type: ignore[arg-type]
        for how in ("probability", "logprob", "bits_per_byte")
    }
    found = {how: evaluator.score(model) for how, evaluator in scores.items()}
    for row, (gold, likely, texts) in enumerate(zip(plain._gold, expected.choices, plain._choices, strict=True)):
        shares = torch.tensor(likely / plain._lengths[row]).softmax(0)
        assert found["probability"].values[row] == pytest.approx(float(shares[gold]), rel=1e-6)
        assert found["logprob"].values[row] == pytest.approx(float(shares[gold].log()), rel=1e-6)
        bits = -likely[gold] / np.log(2) / len(texts[gold].encode())
        assert found["bits_per_byte"].values[row] == pytest.approx(bits, rel=1e-6)
    for how, evaluator in scores.items():
        assert found[how].metric is not None
        assert found[how].by_metric.values.tolist() == expected.values.tolist()
        assert evaluator.higher_is_better == (how != "bits_per_byte")
        assert evaluator.smooth_score == how


def test_lettered_choices_are_listed_and_their_letters_scored(model: TinyModel, tmp_path: Path) -> None:
    rows = [{"prompt": "Which?", "choices": ["red", "blue", "green"], "answer": 2}]
    evaluator = MultipleChoice(file=str(write_lines(tmp_path / "one.jsonl", rows)), lettered=True)
    shown = evaluator.preview(0)
    assert shown.prompt == "Which?\nA. red\nB. blue\nC. green\nAnswer:"
    assert shown.continuations == (" A", " B", " C")
    assert shown.right == (2,)
    choices = evaluator.score(model).choices
    assert choices is not None
    np.testing.assert_allclose(choices[0], [_loglikelihood(model, shown.prompt, letter) for letter in "ABC"], atol=1e-4)


def test_orders_show_every_choice_after_every_letter_and_their_probabilities_are_averaged(
    model: TinyModel, tmp_path: Path
) -> None:
    texts = ["red", "blue", "green"]
    rows = [{"prompt": "Which?", "choices": texts, "answer": "blue"}]
    file = str(write_lines(tmp_path / "one.jsonl", rows))
    evaluator = MultipleChoice(file=file, lettered=True, permute_choices=3)
    (listed,) = evaluator._orders
    assert sorted(zip(*listed, strict=True)) != sorted([(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    assert all(sorted(place) == [0, 1, 2] for place in zip(*listed, strict=True))
    shares = np.zeros(3)
    for order in listed:
        lines = [f"{letter}. {texts[i]}" for letter, i in zip("ABC", order, strict=True)]
        prompt = "\n".join(["Which?", *lines, "Answer:"])
        likely = torch.tensor([_loglikelihood(model, prompt, letter) for letter in "ABC"]).softmax(0)
        for place, i in enumerate(order):
            shares[i] += float(likely[place]) / 3
    choices = evaluator.score(model).choices
    assert choices is not None
    np.testing.assert_allclose(np.exp(choices[0]), shares, atol=1e-4)
    again = MultipleChoice(file=file, lettered=True, permute_choices=3)
    assert again._orders == evaluator._orders
    assert MultipleChoice(file=file, lettered=True)._orders == [[(0, 1, 2)]]


def test_a_position_bias_does_not_change_the_average(tmp_path: Path) -> None:
    """A model that prefers A whatever it stands for has no preference after all rotations."""
    from evaluators._choices import averaged, orders

    listed = orders("some id", 3, 3)
    likely = averaged(torch.tensor([-0.1, -2.0, -4.0] * 3), listed, np.ones(3))
    assert likely.exp().tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "loss"}, "score is 'loss'; expected one of accuracy, probability, logprob, bits_per_byte"),
        ({"permute_choices": 2}, "needs `lettered: true`"),
        ({"permute_choices": 0, "lettered": True}, "permute_choices is 0"),
        ({"lettered": True, "normalize": "bytes"}, "leave out `normalize`"),
        ({"lettered": True, "score": "bits_per_byte"}, "another `score`"),
    ],
)
def test_options_that_contradict_each_other_are_refused(questions: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluatorError, match=message):
        MultipleChoice(file=str(questions), **options)
