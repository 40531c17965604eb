"""The drafted search file: loads, says what was seen, and names the right files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge import plugins
from evomerge.commands.init import draft, show_tasks
from evomerge.commands.tasks import DraftError
from evomerge.config import load_config
from evomerge.merging.models.header import CheckpointError
from evomerge.objective import Floor
from tests.evomerge.merging.folders import llama, tokenizer
from tests.toys import write_toys


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, list[str]]:
    base, experts = write_toys(tmp_path / "models")
    return str(base), [str(path) for path in experts.values()]


def test_the_draft_loads_and_names_models_and_tasks(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    (tmp_path / "say.txt").write_text("hello", encoding="utf-8")
    file = tmp_path / "search.yaml"
    drafted = draft(*models, ["gsm8k", str(tmp_path / "say.txt")], file, "runs/x")
    file.write_text(drafted.text, encoding="utf-8")
    config = load_config(file)
    assert config.base.path == models[0]
    assert {model.name: model.path for model in config.experts} == dict(zip("ab", models[1], strict=True))
    assert config.tasks["say"].options == {"file": str(tmp_path / "say.txt")}
    assert config.tasks["gsm8k"].options == {"task": "gsm8k"}
    assert (config.dtype, config.space.kind, config.study) == ("float32", "auto", tmp_path / "runs/x")
    assert drafted.facts == "bare weights, 0.000192M parameters, 3 blocks, float32"
    assert drafted.facts in drafted.text


def test_a_task_without_a_file_is_noted_as_lm_eval_task(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    (tmp_path / "say.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "own.yaml").write_text("task: own\n", encoding="utf-8")
    tasks = ["count", str(tmp_path / "say.txt"), str(tmp_path / "own.yaml")]
    drafted = draft(*models, tasks, tmp_path / "s.yaml", "s")
    assert drafted.notes == ("task 'count' is used as an lm-eval task, since no such file exists",)


def test_paths_below_the_search_file_are_written_relative(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    inside = draft(*models, ["t"], tmp_path / "search.yaml", "s").text
    assert "base: models/base.safetensors\n" in inside
    (tmp_path / "deep").mkdir()
    outside = draft(*models, ["t"], tmp_path / "deep" / "search.yaml", "s").text
    assert f"base: {models[0]}\n" in outside


def test_every_default_has_a_comment(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    lines = draft(*models, ["t"], tmp_path / "s.yaml", "s").text.splitlines()
    for key in ("base", "experts", "method", "dtype", "space", "tasks", "objective", "optimizer", "budget", "study"):
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[at - 1].startswith("#"), key


def test_the_settings_in_comments_load_too(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    tasks = [str(tmp_path / f"{name}.txt") for name in ("riddles", "no", "third")]
    for task in tasks:
        Path(task).write_text("hello", encoding="utf-8")
    text = draft(*models, tasks, tmp_path / "s.yaml", "s").text
    for optimizer in plugins.names("optimizer"):
        assert f" {optimizer}," in text or f" {optimizer}." in text
    file = tmp_path / "search.yaml"
    file.write_text(
        text.replace("objective: mean", "objective: pareto").replace("# prefer:", "prefer:").replace("# keep:", "keep:")
    )
    objective = load_config(file).objective_for((), ())
    assert objective.weights == {"riddles": 2.0, "no": 1.0, "third": 1.0}
    assert objective.keep == dict.fromkeys(("riddles", "no", "third"), Floor(0.01))


@pytest.mark.parametrize(
    ("tasks", "weights", "lag"),
    [(["t"], "{t: 2}", "{t: 0.01}"), (["no", "b", "c"], "{'no': 2, b: 1, c: 1}", "{'no': 0.01}")],
)
def test_comments_name_the_tasks_of_the_file(
    tmp_path: Path, models: tuple[str, list[str]], tasks: list[str], weights: str, lag: str
) -> None:
    lines = draft(*models, tasks, tmp_path / "s.yaml", "s").text.splitlines()
    assert f"# With weights: {weights}" in lines
    assert f"# Weights with a kind: {{kind: chebyshev, weights: {weights}}}" in lines
    assert any(line.startswith(f"# prefer: {weights} ") for line in lines)
    assert any(line.startswith("# keep: ") and line.endswith(f", or {lag}") for line in lines)


@pytest.mark.parametrize("comment", ["# With weights: ", "# Weights with a kind: "])
def test_weights_in_comments_load_behind_objective(tmp_path: Path, models: tuple[str, list[str]], comment: str) -> None:
    file = tmp_path / "search.yaml"
    text = draft(*models, ["x", "y"], file, "s").text
    written = next(line.removeprefix(comment) for line in text.splitlines() if line.startswith(comment))
    file.write_text(text.replace("objective: mean", f"objective: {written}"))
    assert load_config(file).objective_for((), ()).weights == {"x": 2.0, "y": 1.0}


def test_two_experts_of_the_same_name_are_numbered(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    write_toys(tmp_path / "more")
    experts = [models[1][0], str(tmp_path / "more" / "a.safetensors")]
    file = tmp_path / "search.yaml"
    file.write_text(draft(models[0], experts, ["t"], file, "s").text, encoding="utf-8")
    assert [model.name for model in load_config(file).experts] == ["a", "a-2"]


def test_incompatible_models_are_refused(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    save_file({"model.norm.weight": torch.zeros(4, 6)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="other"):
        draft(models[0], [str(tmp_path / "other.safetensors")], ["t"], tmp_path / "s.yaml", "s")


def test_two_tasks_of_the_same_name_are_refused(tmp_path: Path, models: tuple[str, list[str]]) -> None:
    with pytest.raises(DraftError, match="same name"):
        draft(*models, ["gsm8k", "gsm8k"], tmp_path / "s.yaml", "s")


def test_different_vocabularies_get_the_union_tokenizer(tmp_path: Path) -> None:
    base = tokenizer(llama(tmp_path / "base", vocab_size=4), "abc")
    more = tokenizer(llama(tmp_path / "more", 1, vocab_size=5), "abcx")
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 3)
    file = tmp_path / "search.yaml"
    for experts, wanted in (([str(more)], "union"), ([str(base)], None)):
        file.write_text(draft(str(base), experts, [str(tmp_path / "t.jsonl")], file, "run").text)
        assert load_config(file).tokenizer == wanted


def test_three_examples_of_every_task_are_shown(tmp_path: Path) -> None:
    lines = [f'{{"prompt": "q{i}", "choices": [" a", " b"], "answer": {i % 2}}}' for i in range(5)]
    (tmp_path / "quiz.jsonl").write_text("\n".join(lines), encoding="utf-8")
    shown = show_tasks([str(tmp_path / "quiz.jsonl"), "gsm8k"])
    assert shown["quiz"] == [
        "3 of its 5 examples",
        *(f"{what}" for i in range(3) for what in (f"reads   'q{i}'", SCORED[i % 2])),
    ]
    assert "evomerge check" in shown["gsm8k"][0]


SCORED = ("scores  ' a' (right), ' b'", "scores  ' a', ' b' (right)")
