"""Tiny models and data of the evaluators' tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluators.tiny_llama import TinyModel, build, write_lines


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TinyModel]:
    """(seed, config class, model class, **config) -> a tiny random model in a folder of its own."""

    def make(seed: int, *architecture: Any, **own: Any) -> TinyModel:
        return build(tmp_path_factory.mktemp("model"), seed, *architecture, **own)

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., TinyModel]) -> TinyModel:
    return make_model(0)


@pytest.fixture(scope="session")
def other_model(make_model: Callable[..., TinyModel], model: TinyModel) -> TinyModel:
    other = make_model(1)
    return TinyModel(other.network, model.tokenizer, other.folder)


@pytest.fixture(scope="session")
def broken_model(make_model: Callable[..., TinyModel], model: TinyModel) -> TinyModel:
    broken = make_model(2)
    with torch.no_grad():
        broken.network.model.norm.weight.fill_(float("nan"))
    return TinyModel(broken.network, model.tokenizer, broken.folder)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Multiple choice with two to four choices, of one and of several tokens, prompts of many lengths."""
    draw = np.random.default_rng(0)
    words = ["red", "blue", "green", "a", "b", "c", "yes", "no", "maybe so"]
    rows = []
    for i in range(24):
        chosen = draw.choice(words, size=2 + i % 3, replace=False).tolist()
        answer = chosen[i % 2] if i % 2 else i % 2
        rows.append({"question": f"Item {i}: " + "which " * (i % 7) + "?", "choices": chosen, "answer": answer})
    return write_lines(tmp_path_factory.mktemp("data") / "questions.jsonl", rows)


@pytest.fixture(scope="session")
def without_labels(questions: Path) -> Path:
    """The file of `questions` without its answers."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key != "answer"} for row in rows]
    return write_lines(questions.parent / "unlabeled.jsonl", kept)
