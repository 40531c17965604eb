from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator, EvaluatorError
from evaluators.effective_rank import EffectiveRank, _effective_rank
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines


class TestEffectiveRank(EvaluatorContract):
    @pytest.fixture
    def build(self, questions: Path) -> Callable[[], Evaluator]:
        return lambda: EffectiveRank(file=str(questions))


def test_equals_that_of_the_networks_own_hidden_states(model: TinyModel, questions: Path) -> None:
    evaluator = EffectiveRank(file=str(questions))
    states = []
    for text in evaluator._prompts:
        tokens = torch.tensor([model.tokenizer.encode(text)])
        with torch.no_grad():
            states.append(model.network(tokens, output_hidden_states=True).hidden_states[-1][0, -1].double())
    p = np.linalg.svd(torch.stack(states).numpy(), compute_uv=False)
    p = p / p.sum() + 1e-7
    assert evaluator.score(model).values == pytest.approx([np.exp(-(p * np.log(p)).sum())], rel=1e-5)


@pytest.mark.parametrize(("matrix", "rank"), [(torch.eye(6), 6), (torch.ones(6, 4), 1), (torch.zeros(3, 3), None)])
def test_counts_directions(matrix: torch.Tensor, rank: int | None) -> None:
    found = _effective_rank(matrix)
    assert np.isnan(found) if rank is None else found == pytest.approx(rank, rel=1e-3)


def test_reads_no_labels(model: TinyModel, questions: Path, without_labels: Path) -> None:
    scores = [EffectiveRank(file=str(file)).score(model) for file in (questions, without_labels)]
    assert scores[0].example_ids == scores[1].example_ids
    assert scores[0].values.tolist() == scores[1].values.tolist()


def test_few_texts_are_warned_about(model: TinyModel, questions: Path) -> None:
    assert "at most 24: use at least 32 texts" in EffectiveRank(file=str(questions)).preflight(model)[0]


def test_a_text_without_tokens_is_refused(model: TinyModel, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "empty.jsonl", [{"text": "one"}, {"text": ""}])
    with pytest.raises(EvaluatorError, match="has no tokens"):
        EffectiveRank(file=str(file)).preflight(model)
