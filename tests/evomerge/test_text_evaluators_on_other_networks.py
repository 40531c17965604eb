"""Evaluators that read text from left to right refuse every other network, before any weight is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators._networks import check_continues_text
from evaluators.base import EvaluatorError
from evomerge.cli import app
from tests.evomerge.networks import KINDS, write_network

CONTINUE = ("bert_decoder", "gpt2", "llama", "llama_dynamic", "llava", "mamba", "mixtral", "recurrent_gemma", "rwkv")
TEXT_TASKS: dict[str, dict[str, Any]] = {
    "perplexity": {"file": "text.txt", "window": 20},
    "multiple_choice": {"file": "choices.jsonl"},
    "exact_match": {"file": "answers.jsonl", "max_new_tokens": 2},
    "generated_tokens": {"file": "answers.jsonl", "max_new_tokens": 2},
    "latency": {"file": "answers.jsonl", "max_new_tokens": 2},
    "lm_eval_task": {"task": "quiz", "include_path": "."},
}
LM_EVAL = """task: quiz
dataset_path: json
dataset_kwargs: {data_files: {test: choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
"""


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_networks_are_told_apart_by_their_structure(kind: str) -> None:
    with torch.device("meta"):
        network = KINDS[kind]()
    if kind in CONTINUE:
        check_continues_text(network)
        return
    with pytest.raises(EvaluatorError, match=f"{type(network).__name__} is not a causal language model"):
        check_continues_text(network)


def write_data(folder: Path) -> None:
    (folder / "text.txt").write_text(" ".join(f"there were {n} of them." for n in range(60)), encoding="utf-8")
    rows = [{"question": f"{n}+{n}=", "choices": [f"{2 * n}", "x"], "answer": 0} for n in range(40)]
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [{"question": f"{n}+{n}=", "answer": f"{2 * n}"} for n in range(40)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "quiz.yaml").write_text(LM_EVAL.replace("choices.jsonl", str(folder / "choices.jsonl")), encoding="utf-8")


def check(folder: Path, evaluator: str) -> tuple[int, str]:
    """Exit code and message of `evomerge check` for a search over folder/base, a and b with one task."""
    task = {"evaluator": evaluator, **TEXT_TASKS[evaluator]}
    search = {
        "base": "base",
        "experts": {"a": "a", "b": "b"},
        "method": "linear",
        "space": "uniform",
        "tasks": {"mine": task},
        "optimizer": "random",
        "budget": {"trials": 8},
        "executor": "serial",
        "study": "study",
    }
    (folder / "search.yaml").write_text(strict_yaml.dump(search), encoding="utf-8")
    done = CliRunner().invoke(app, ["check", str(folder / "search.yaml")])
    return done.exit_code, done.output


@pytest.mark.parametrize("kind", ["bert_mlm", "bart", "t5", "llama_classifier"])
def test_check_refuses_perplexity_of_other_networks(tmp_path: Path, kind: str) -> None:
    write_network(tmp_path, kind)
    write_data(tmp_path)
    code, said = check(tmp_path, "perplexity")
    assert (code, "is not a causal language model" in " ".join(said.split())) == (2, True), said
    assert type(KINDS[kind]()).__name__ in said
    assert "search.yaml:" in said


@pytest.mark.parametrize("evaluator", sorted(TEXT_TASKS))
def test_check_refuses_every_text_evaluator_on_an_encoder(tmp_path: Path, evaluator: str) -> None:
    write_network(tmp_path, "bert_lm")
    write_data(tmp_path)
    code, said = check(tmp_path, evaluator)
    assert (code, "is not a causal language model" in " ".join(said.split())) == (2, True), said


@pytest.mark.parametrize(
    "arguments",
    [
        ["statistics", "base", "--data", "text.txt", "-o", "statistics.safetensors"],
        ["soup", "base", "a", "b", "--data", "text.txt", "-o", "recipe.yaml"],
        ["repair", "base", "a", "b", "--data", "text.txt", "-o", "out"],
    ],
)
def test_other_commands_refuse_them_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    write_network(tmp_path, "bert_mlm")
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evomerge.commands.tools.calibrate.load_resident", None)
    monkeypatch.setattr("evomerge.commands.tools.soup.load_resident", None)
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "BertForMaskedLM is not a causal language model" in " ".join(done.output.split())) == (
        2,
        True,
    ), done.output
