from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator, EvaluatorError
from evaluators.kl_to_expert import KlToExpert
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines


def taught(expert: TinyModel, file: Path, **options: object) -> KlToExpert:
    evaluator = KlToExpert(file=str(file), expert="math", **options)  # type: ignore[arg-type]
    evaluator.learn("math", expert, evaluator.example_ids)
    return evaluator


class TestOnTexts(EvaluatorContract):
    @pytest.fixture
    def build(self, other_model: TinyModel, questions: Path) -> Callable[[], Evaluator]:
        return lambda: taught(other_model, questions, window=25)


class TestOnAnswers(EvaluatorContract):
    @pytest.fixture
    def build(self, other_model: TinyModel, questions: Path) -> Callable[[], Evaluator]:
        return lambda: taught(other_model, questions, max_new_tokens=4, top=8, temperature=2.0, limit=8)


def _divergence(model: TinyModel, expert: TinyModel, tokens: list[int], scored: slice, temperature: float) -> float:
    """The mean over the predictions at some positions, from one row of full logits in float64."""
    with torch.no_grad():
        mine, theirs = (
            (each.network(torch.tensor([tokens])).logits[0, scored].double() / temperature).log_softmax(-1)
            for each in (model, expert)
        )
    return float((theirs.exp() * (theirs - mine)).sum(-1).mean()) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_the_divergence_of_whole_distributions(
    model: TinyModel, other_model: TinyModel, questions: Path, temperature: float
) -> None:
    evaluator = taught(other_model, questions, temperature=temperature)
    for row, value in enumerate(evaluator.score(model).values):
        tokens = [model.tokenizer.bos_token_id, *model.tokenizer.encode(evaluator.preview(row).continuations[0])]
        expected = _divergence(model, other_model, tokens, slice(0, len(tokens) - 1), temperature)
        assert value == pytest.approx(expected, abs=1e-4)


def test_on_the_answers_of_the_expert_only_their_tokens_count(
    model: TinyModel, other_model: TinyModel, questions: Path
) -> None:
    evaluator = taught(other_model, questions, max_new_tokens=3, limit=5)
    for row, value in enumerate(evaluator.score(model).values):
        prompt = model.tokenizer.encode(evaluator.preview(row).prompt)
        with torch.no_grad():
            whole = other_model.network.generate(torch.tensor([prompt]), max_new_tokens=3, do_sample=False)[0].tolist()
        expected = _divergence(model, other_model, whole, slice(len(prompt) - 1, len(whole) - 1), 1.0)
        assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"max_new_tokens": 3}], ids=["texts", "answers"])
def test_the_expert_does_not_diverge_from_itself(
    other_model: TinyModel, questions: Path, options: dict[str, object]
) -> None:
    assert np.abs(taught(other_model, questions, **options).score(other_model).values).max() < 1e-5


def test_fewer_outcomes_are_a_lower_bound(model: TinyModel, other_model: TinyModel, questions: Path) -> None:
    whole, ten, one = (taught(other_model, questions, top=top).score(model).values for top in (1000, 10, 1))
    assert (one <= ten + 1e-6).all()
    assert (ten <= whole + 1e-6).all()
    assert (one > 0).all()
    assert one.mean() < ten.mean() < whole.mean()


@pytest.mark.parametrize("options", [{}, {"max_new_tokens": 2}], ids=["texts", "answers"])
def test_reads_no_labels(
    model: TinyModel, other_model: TinyModel, questions: Path, without_labels: Path, options: dict[str, object]
) -> None:
    scores = [taught(other_model, file, **options).score(model) for file in (questions, without_labels)]
    assert scores[0].example_ids == scores[1].example_ids
    np.testing.assert_array_equal(scores[0].values, scores[1].values)


def test_a_part_may_be_learned_at_a_time(model: TinyModel, other_model: TinyModel, questions: Path) -> None:
    whole = taught(other_model, questions)
    evaluator = KlToExpert(file=str(questions), expert="math")
    ids = evaluator.example_ids
    evaluator.learn("math", other_model, ids[:7])
    first = evaluator.score(model, ids[:7]).values
    with pytest.raises(EvaluatorError, match="'math' has not read"):
        evaluator.score(model)
    evaluator.learn("math", other_model, ids[7:])
    np.testing.assert_allclose(evaluator.score(model).values, whole.score(model).values, atol=1e-5)
    np.testing.assert_allclose(first, whole.score(model).values[:7], atol=1e-5)


def test_an_expert_that_yields_nan_is_refused(broken_model: TinyModel, questions: Path) -> None:
    with pytest.raises(EvaluatorError, match="computes no finite numbers"):
        taught(broken_model, questions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top": 0}, "top is 0"),
        ({"apply_chat_template": True}, "set max_new_tokens, or remove them"),
        ({"prompt": "text"}, "has no field 'text'"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    file = write_lines(tmp_path / "one.jsonl", [{"prompt": "p"}])
    with pytest.raises(EvaluatorError, match=message):
        KlToExpert(file=str(file), expert="math", **options)  # type: ignore[arg-type]
