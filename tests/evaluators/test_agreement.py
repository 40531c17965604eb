from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluators.agreement import Agreement
from evaluators.base import Evaluator, EvaluatorError
from evaluators.exact_match import ExactMatch
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines


def taught(expert: TinyModel, file: Path, **options: object) -> Agreement:
    evaluator = Agreement(file=str(file), expert="math", **options)  # type: ignore[arg-type]
    evaluator.learn("math", expert, evaluator.example_ids)
    return evaluator


class TestAgreement(EvaluatorContract):
    steps = 60

    @pytest.fixture
    def build(self, other_model: TinyModel, mixed_prompts: Path) -> Callable[[], Evaluator]:
        return lambda: taught(other_model, mixed_prompts, max_new_tokens=2)


@pytest.fixture(scope="module")
def mixed_prompts(model: TinyModel, other_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts whose answers of up to two tokens are the same of both models for some, and differ for others."""
    tried = [{"prompt": f"{word} {n}"} for word in ("which", "Item", "red or blue") for n in range(120)]
    file = write_lines(tmp_path_factory.mktemp("data") / "tried.jsonl", tried)
    same = taught(other_model, file, max_new_tokens=2).score(model).values == 1
    chosen = [*np.flatnonzero(same)[:4], *np.flatnonzero(~same)[:8]]
    return write_lines(file.parent / "prompts.jsonl", [tried[i] for i in chosen])


def test_the_expert_agrees_with_itself(other_model: TinyModel, questions: Path) -> None:
    assert taught(other_model, questions, max_new_tokens=4).score(other_model).mean == 1


def test_equals_exact_match_with_the_experts_answers_as_labels(
    model: TinyModel, other_model: TinyModel, mixed_prompts: Path, tmp_path: Path
) -> None:
    evaluator = taught(other_model, mixed_prompts, max_new_tokens=2)
    engine = evaluator._engine.of(other_model)
    texts = [found.text for found in engine.run(other_model.network, range(len(evaluator.example_ids)))]
    rows = [{"prompt": evaluator.preview(i).prompt, "answer": text} for i, text in enumerate(texts)]
    labeled = ExactMatch(file=str(write_lines(tmp_path / "labeled.jsonl", rows)), max_new_tokens=2)
    assert labeled.score(model).values.tolist() == evaluator.score(model).values.tolist()
    assert 0 < evaluator.score(model).mean < 1


def test_reads_no_labels(model: TinyModel, other_model: TinyModel, questions: Path, without_labels: Path) -> None:
    scores = [taught(other_model, file, max_new_tokens=2).score(model) for file in (questions, without_labels)]
    assert scores[0].example_ids == scores[1].example_ids
    assert scores[0].values.tolist() == scores[1].values.tolist()


def test_only_what_is_extracted_is_compared(model: TinyModel, other_model: TinyModel, questions: Path) -> None:
    scores = taught(other_model, questions, max_new_tokens=4, extract=r"").score(model)
    assert scores.mean == 1
    assert taught(other_model, questions, max_new_tokens=4, extract="no match").score(other_model).mean == 0


def test_prompts_may_be_the_lines_of_a_text(model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    evaluator = Agreement(file=str(tmp_path / "prompts.txt"), expert="math")
    assert [evaluator.preview(row).prompt for row in range(2)] == ["one", "two"]
    assert len(evaluator.example_ids) == 2


def test_without_the_experts_answers_it_is_refused(model: TinyModel, questions: Path) -> None:
    evaluator = Agreement(file=str(questions), expert="math")
    assert evaluator.experts == ("math",)
    with pytest.raises(EvaluatorError, match="'math' has not answered"):
        evaluator.score(model)
    with pytest.raises(EvaluatorError, match="does not learn from 'code'; it compares with math"):
        evaluator.learn("code", model, evaluator.example_ids)


def test_an_expert_that_yields_nan_is_refused(broken_model: TinyModel, questions: Path) -> None:
    with pytest.raises(EvaluatorError, match="'math' computes NaN"):
        taught(broken_model, questions)
