from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator
from evaluators.generated_tokens import GeneratedTokens
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines

LIMIT = 40


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": f"Say {'so ' * (i % 5)}{i}"} for i in range(24)]
    return write_lines(tmp_path_factory.mktemp("data") / "prompts.jsonl", rows)


class TestGeneratedTokens(EvaluatorContract):
    @pytest.fixture
    def build(self, prompts: Path) -> Callable[[], Evaluator]:
        return lambda: GeneratedTokens(file=str(prompts), max_new_tokens=LIMIT)


def _count(model: TinyModel, prompt: str) -> int:
    """Greedy decoding by hand: one full forward per token, no cache, no padding, no generate."""
    tokens = model.tokenizer.encode(prompt)
    with torch.no_grad():
        for n in range(LIMIT):
            tokens.append(int(model.network(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == model.tokenizer.eos_token_id:
                return n
    return LIMIT


def test_counts_what_decoding_by_hand_writes(other_model: TinyModel, prompts: Path) -> None:
    scores = GeneratedTokens(file=str(prompts), max_new_tokens=LIMIT).score(other_model)
    expected = [_count(other_model, f"Say {'so ' * (i % 5)}{i}") for i in range(24)]
    assert len(set(expected)) > 2, "some end by themselves"
    np.testing.assert_array_equal(scores.values, expected)
    assert scores.truncated == expected.count(LIMIT)
    assert not GeneratedTokens.higher_is_better
