"""The same numbers on a GPU as on the CPU."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator
from evaluators.exact_match import ExactMatch
from evaluators.multiple_choice import MultipleChoice
from evaluators.perplexity import Perplexity
from tests.evaluators.tiny_llama import TinyModel, write_lines

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

EVALUATORS: dict[str, Callable[[Path], Evaluator]] = {
    "multiple_choice": lambda file: MultipleChoice(file=str(file)),
    "perplexity": lambda file: Perplexity(file=str(file), field="prompt", window=30),
    "exact_match": lambda file: ExactMatch(file=str(file), max_new_tokens=4),
}


@pytest.mark.parametrize("name", EVALUATORS)
def test_a_gpu_scores_as_the_cpu_does(model: TinyModel, tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": f"Say {'so ' * (i % 5)}{i}", "choices": ["red", "dark blue", "x"], "answer": "red"}
        for i in range(20)
    ]
    evaluator = EVALUATORS[name](write_lines(tmp_path / "rows.jsonl", rows))
    on_gpu = TinyModel(copy.deepcopy(model.network).to("cuda"), model.tokenizer, model.folder)
    for ids in (None, evaluator.example_ids[:7]):
        cpu, gpu = evaluator.score(model, ids), evaluator.score(on_gpu, ids)
        assert cpu.example_ids == gpu.example_ids
        np.testing.assert_allclose(gpu.values, cpu.values, atol=1e-3)
        for own, other in zip(gpu.choices or (), cpu.choices or (), strict=True):
            np.testing.assert_allclose(own, other, atol=1e-2)
