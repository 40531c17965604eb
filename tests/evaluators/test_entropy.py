from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator, EvaluatorError
from evaluators.entropy import Entropy
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines

TEXT = " ".join(f"word{i}" + "." * (i % 3) for i in range(60))


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "prose.txt"
    file.write_text(TEXT)
    return file


class TestOfTexts(EvaluatorContract):
    @pytest.fixture
    def build(self, prose: Path) -> Callable[[], Evaluator]:
        return lambda: Entropy(file=str(prose), window=100)


class TestOfChoices(EvaluatorContract):
    @pytest.fixture
    def build(self, questions: Path) -> Callable[[], Evaluator]:
        return lambda: Entropy(file=str(questions), choices="choices", normalize="bytes")


class TestOfAnswers(EvaluatorContract):
    @pytest.fixture
    def build(self, questions: Path) -> Callable[[], Evaluator]:
        return lambda: Entropy(file=str(questions), max_new_tokens=4, limit=8)

    @pytest.mark.skip(reason="the tokens of the loss are those that the model writes, whatever another one wrote")
    def test_references_are_the_targets_of_generated_answers(self) -> None: ...


def _distributions(model: TinyModel, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.network(torch.tensor([tokens])).logits[0].double().softmax(-1)


def _entropies(probabilities: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(probabilities).sum(-1)


def test_of_a_text_it_is_the_mean_over_its_tokens(model: TinyModel, prose: Path) -> None:
    evaluator = Entropy(file=str(prose), window=100)
    for row, value in enumerate(evaluator.score(model).values):
        tokens = [model.tokenizer.bos_token_id, *model.tokenizer.encode(evaluator.preview(row).continuations[0])]
        assert value == pytest.approx(float(_entropies(_distributions(model, tokens[:-1])).mean()), abs=1e-4)


def test_of_an_answer_it_is_the_mean_over_the_written_tokens(model: TinyModel, questions: Path) -> None:
    evaluator = Entropy(file=str(questions), max_new_tokens=3, limit=4)
    for row, value in enumerate(evaluator.score(model).values):
        tokens = list(model.tokenizer.encode(evaluator.preview(row).prompt))
        found: list[float] = []
        while len(found) < 3 and (not found or tokens[-1] != model.tokenizer.eos_token_id):
            last = _distributions(model, tokens)[-1]
            found.append(float(_entropies(last)))
            tokens.append(int(last.argmax()))
        assert value == pytest.approx(float(np.mean(found)), abs=1e-4)


def test_of_choices_it_is_that_of_their_distribution(model: TinyModel, tmp_path: Path) -> None:
    rows = [{"question": "Which?", "choices": ["a", "a", "a"]}]
    evaluator = Entropy(file=str(write_lines(tmp_path / "same.jsonl", rows)), choices="choices")
    assert evaluator.score(model).values == pytest.approx([np.log(3)], abs=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"choices": "choices"}, {"max_new_tokens": 2, "limit": 6}], ids=["texts", "choices", "answers"]
)
def test_reads_no_labels(model: TinyModel, questions: Path, without_labels: Path, options: dict[str, object]) -> None:
    labeled, unlabeled = (Entropy(file=str(file), **options) for file in (questions, without_labels))  # type: ignore[arg-type]
    assert labeled.example_ids == unlabeled.example_ids
    np.testing.assert_array_equal(labeled.score(model).values, unlabeled.score(model).values)


def test_an_overconfident_model_has_none_and_the_user_is_warned(
    make_model: Callable[..., TinyModel], model: TinyModel, prose: Path
) -> None:
    collapsed = make_model(3)
    with torch.no_grad():
        collapsed.network.lm_head.weight *= 1000
    evaluator = Entropy(file=str(prose), window=100)
    assert evaluator.score(TinyModel(collapsed.network, model.tokenizer, model.folder)).mean < 0.01
    assert "collapsed" in evaluator.preflight(model)[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": "choices", "max_new_tokens": 2}, "both set"),
        ({"normalize": "words"}, "normalize is 'words'"),
        ({"system": "Be brief."}, "set max_new_tokens or choices"),
        ({"choices": "options"}, "has no field 'options'"),
        ({"prompt": "text"}, "has no field 'text'"),
        ({"window": 0}, "window is 0"),
        ({"limit": 0, "max_new_tokens": 1}, "limit is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(questions: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluatorError, match=message):
        Entropy(file=str(questions), **options)  # type: ignore[arg-type]
