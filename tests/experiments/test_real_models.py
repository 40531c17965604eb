"""Training on answers only, and the tasks as files."""

import json
from pathlib import Path

import pytest

from experiments import real_data
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


def test_downloaded_rows_become_examples_and_none_is_trained_on_and_scored(tmp_path: Path) -> None:
    rows = {
        "train": [{"text": "Where is Rome ?", "coarse_label": 4}, {"text": "Who is it ?", "coarse_label": 3}],
        "test": [{"text": "Who is it ?", "coarse_label": 3}, {"text": "What ?" * 100, "coarse_label": 2}],
    }
    source = real_data.SOURCES["trec"]
    real_data.write(source, rows, tmp_path, "trec")
    (scored,) = map(json.loads, (tmp_path / "trec.jsonl").read_text().splitlines())
    assert scored == {
        "question": "Question: Who is it ?\nExpected answer:",
        "choices": list(source.choices),
        "answer": source.choices.index(" person"),
    }
    (learned,) = map(json.loads, (tmp_path / "trec.train.jsonl").read_text().splitlines())
    assert learned == {"prompt": "Question: Where is Rome ?\nExpected answer:", "answer": " place"}
