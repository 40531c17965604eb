import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator, EvaluatorError
from evaluators.perplexity import Perplexity
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines

TEXT = " ".join(f"word{i}" + "." * (i % 3) for i in range(120))


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "prose.txt"
    file.write_text(TEXT)
    return file


class TestPerplexity(EvaluatorContract):
    @pytest.fixture
    def build(self, prose: Path) -> Callable[[], Evaluator]:
        return lambda: Perplexity(file=str(prose), window=100)


def test_equals_the_models_own_loss(model: TinyModel, prose: Path) -> None:
    evaluator = Perplexity(file=str(prose), window=100)
    assert not evaluator.higher_is_better
    for window, value in zip(evaluator._windows, evaluator.score(model).values, strict=True):
        tokens = torch.tensor([[model.tokenizer.bos_token_id, *model.tokenizer.encode(window)]])
        with torch.no_grad():
            assert value == pytest.approx(float(model.network(tokens, labels=tokens).loss), abs=1e-4)


def test_windows_hold_the_whole_text_in_pieces_of_limited_length(prose: Path) -> None:
    windows = Perplexity(file=str(prose), window=100)._windows
    assert " ".join(windows).split() == TEXT.split()
    assert max(map(len, windows)) <= 100


def test_a_word_longer_than_a_window_is_cut(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("ab " + "x" * 25 + " cd")
    assert Perplexity(file=str(tmp_path / "long.txt"), window=10)._windows == [
        "ab",
        "x" * 10,
        "x" * 10,
        "x" * 5 + " cd",
    ]


def test_a_window_longer_than_the_model_scores_every_token_once(model: TinyModel, prose: Path) -> None:
    evaluator = Perplexity(file=str(prose), window=10_000)
    (value,) = evaluator.score(model).values
    tokens = [model.tokenizer.bos_token_id, *model.tokenizer.encode(TEXT)]
    total = 0.0
    for start in range(0, len(tokens) - 1, 256):
        piece = torch.tensor([tokens[start : start + 257]])
        with torch.no_grad():
            scores = model.network(piece[:, :-1]).logits[0].log_softmax(-1)
        total -= float(scores.gather(1, piece[0, 1:, None]).sum())
    assert len(tokens) > 512
    assert value == pytest.approx(total / (len(tokens) - 1), abs=1e-4)


def test_reads_json_lines(model: TinyModel, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "two.jsonl", [{"body": "one"}, {"body": "two"}])
    scores = Perplexity(file=str(file), field="body").score(model)
    assert len(scores.values) == 2
    assert np.exp(scores.mean) > 1 / math.e


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(EvaluatorError, match="has no text"):
        Perplexity(file=str(tmp_path / "empty.txt"))
