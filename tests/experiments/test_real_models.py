"""Training on answers only, and the tasks as files."""

import json
from pathlib import Path

import pytest

from experiments.real_models import answer_loss, write_task
from experiments.tiny_models.train import Network, character_tokenizer, new_model


def test_the_loss_is_that_of_the_answers_tokens_with_their_ends_of_line() -> None:
    network, tokenizer = new_model(Network(hidden=16, layers=2, heads=2), seed=0), character_tokenizer()
    examples = [{"prompt": "sort 21 =", "answer": " 12"}, {"prompt": "sort 8765 =", "answer": " 5678"}]
    total, n_tokens = 0.0, 0
    for example in examples:
        tokens = tokenizer(f"{example['prompt']}{example['answer']}\n", return_tensors="pt")["input_ids"]
        n_answer = len(example["answer"]) + 1
        labels = tokens.clone()
        labels[:, :-n_answer] = -100
        total += float(network(input_ids=tokens, labels=labels).loss.detach()) * n_answer
        n_tokens += n_answer
    assert answer_loss(network, tokenizer, examples).item() == pytest.approx(total / n_tokens, rel=1e-5)


def test_a_task_that_is_written_has_the_answer_instead_of_choices(tmp_path: Path) -> None:
    line = {"question": "Question: who ?\nExpected answer:", "choices": [" place", " person"], "answer": 1}
    source, target = tmp_path / "trec.jsonl", tmp_path / "written.jsonl"
    source.write_text(f"{json.dumps(line)}\n")
    write_task(source, target, written=True)
    assert json.loads(target.read_text()) == {"prompt": line["question"], "answer": "person"}
    write_task(source, target, written=False)
    assert json.loads(target.read_text()) == line
