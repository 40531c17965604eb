"""Parents with a tokenizer, chat template or settings of generation of their own: scored with them, or named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evomerge.bench import build_evaluator, split_ids
from evomerge.cli import app
from evomerge.config import load_config
from evomerge.export.export import Choice, export
from evomerge.launch.plan import LaunchError, Plan, prepare
from evomerge.merging.engine import MergeError
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.trial_merge import merge_of
from evomerge.resident.resident import load_resident
from tests.evomerge.networks import CHARACTERS, write_network
from tests.evomerge.test_parents_under_the_base_config import change, search_file

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}{% endfor %}"


def tasks(folder: Path, **options: Any) -> dict[str, Any]:
    """A task that writes text, three characters after each prompt."""
    lines = [{"prompt": f"there were {n} of them", "answer": str(n)} for n in range(40)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    task = {"evaluator": "generated_tokens", "file": str(folder / "sums.jsonl"), "max_new_tokens": 3}
    return {"written": task | options}


def other_letters(folder: Path) -> None:
    """A tokenizer with the same tokens, half of them under other ids."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    ids = content["model"]["vocab"]
    for a, b in zip(CHARACTERS[0:20:2], CHARACTERS[1:20:2], strict=True):
        ids[a], ids[b] = ids[b], ids[a]
    file.write_text(json.dumps(content), encoding="utf-8")


def scores(plan: Plan, paths: dict[str, Path], label: str) -> tuple[list[Any], list[Any]]:
    """What a planned trial scores, and what its folder scores by itself, on every task."""
    trial = next(trial for trial in plan.planned if trial.label == label)
    outcome = plan.spec().run(trial)
    assert outcome.failure is None, outcome.failure.traceback
    folder = paths[label.removeprefix("parent:")]
    alone = load_resident(Checkpoint.open(folder), folder, None, "cpu")
    theirs = []
    for spec in plan.spec.tasks.values():
        evaluator = build_evaluator(spec)
        theirs.append(evaluator.score(alone, split_ids(evaluator, "search", plan.spec.split)).values)
    return [outcome.scores[task].values for task in plan.spec.tasks], theirs


def test_a_parent_reads_with_its_own_tokenizer(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    other_letters(paths["b"])
    file = search_file(tmp_path, paths)
    plan = prepare(load_config(file))
    assert (plan.spec.own, plan.spec.own_tokenizers) == (("b",), ("b",))
    for label in ("parent:b", "parent:a", "base"):
        np.testing.assert_array_equal(*scores(plan, paths, label))
    done = CliRunner().invoke(app, ["check", str(file)])
    said = " ".join(done.output.split())
    assert "b: its tokenizer encodes " in said
    assert "parent:b is scored with its own tokenizer" in said
    with pytest.raises(LaunchError, match=r"greedy_soup .* b's"):
        prepare(load_config(search_file(tmp_path, paths, optimizer="greedy_soup")))


def test_a_tokenizer_that_reads_the_tasks_alike_is_none_of_its_own(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    settings = json.loads((paths["b"] / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"padding_side": "left", "model_max_length": 9000, "name_or_path": "x/y", "chat_template": TEMPLATE}
    (paths["b"] / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    content = json.loads((paths["a"] / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 500, "strategy": "LongestFirst", "stride": 0}
    (paths["a"] / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    plan = prepare(load_config(search_file(tmp_path, paths)))
    assert plan.spec.own == ()


def test_a_parent_is_asked_with_its_own_chat_template(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    for name, template in (("base", TEMPLATE), ("a", TEMPLATE), ("b", TEMPLATE + "?")):
        (paths[name] / "chat_template.jinja").write_text(template, encoding="utf-8")
    lines = [{"prompt": f"{n} or", "choices": ["more", "less"], "answer": n % 2} for n in range(40)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    choice = {"evaluator": "multiple_choice", "file": str(tmp_path / "c.jsonl"), "answer_is": "index"}
    plan = prepare(load_config(search_file(tmp_path, paths, tasks={"c": choice | {"apply_chat_template": True}})))
    assert plan.spec.own_tokenizers == ("b",)
    np.testing.assert_array_equal(*scores(plan, paths, "parent:b"))
    assert prepare(load_config(search_file(tmp_path, paths, tasks={"c": choice}))).spec.own == ()
    (paths["b"] / "chat_template.jinja").unlink()  # it has none, so that only the merge's is left
    plan = prepare(load_config(search_file(tmp_path, paths, tasks={"c": choice | {"apply_chat_template": True}})))
    assert plan.spec.own == ()
    assert "has no chat template" in plan.borrowed["parent:b"]


@pytest.mark.parametrize("settings", [{"eos_token_id": list(range(2, 30))}, {"repetition_penalty": 30.0}])
def test_a_parent_writes_with_its_own_settings_of_generation(tmp_path: Path, settings: dict[str, Any]) -> None:
    paths = write_network(tmp_path, "llama")
    file = paths["b"] / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    plan = prepare(load_config(search_file(tmp_path, paths, tasks=tasks(tmp_path))))
    assert plan.spec.own_tokenizers == ("b",)
    np.testing.assert_array_equal(*scores(plan, paths, "parent:b"))
    np.testing.assert_array_equal(*scores(plan, paths, "parent:a"))
    assert prepare(load_config(search_file(tmp_path, paths))).spec.own == (), "perplexity writes nothing"


def test_sampling_settings_change_no_greedy_continuation(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    file = paths["b"] / "generation_config.json"
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "num_beams": 1, "transformers_version": "4.40.0"}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | own), encoding="utf-8")
    assert prepare(load_config(search_file(tmp_path, paths, tasks=tasks(tmp_path)))).spec.own == ()


def test_a_parent_that_reads_fewer_tokens(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    change(paths["b"], max_position_embeddings=8)
    plan = prepare(load_config(search_file(tmp_path, paths)))
    assert plan.spec.own == ("b",)
    np.testing.assert_array_equal(*scores(plan, paths, "parent:b"))


def test_the_base_reads_with_its_own_where_the_merge_has_an_inputs(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    file = paths["b"] / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": list(range(2, 30))}), encoding="utf-8")
    plan = prepare(load_config(search_file(tmp_path, paths, tasks=tasks(tmp_path), tokenizer="b")))
    assert plan.spec.own == ("base", "a")
    for label in ("base", "parent:a", "parent:b"):
        np.testing.assert_array_equal(*scores(plan, paths, label))


def test_a_parent_is_exported_as_its_folder_is(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    other_letters(paths["b"])
    change(paths["b"], rms_norm_eps=0.1)
    endings = json.dumps({"eos_token_id": [2, 7]})
    (paths["b"] / "generation_config.json").write_text(endings, encoding="utf-8")
    config = load_config(search_file(tmp_path, paths))
    plan = prepare(config)
    planned = {trial.label: trial for trial in plan.planned}
    out = tmp_path / "out"
    export(Choice("parent:b", merge_of(planned["parent:b"], config.recipe(), lambda: plan.space), {}), out)
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["rms_norm_eps"] == 0.1
    for name in ("tokenizer.json", "generation_config.json"):
        assert (out / name).read_bytes() == (paths["b"] / name).read_bytes()
    evaluator = build_evaluator(plan.spec.tasks["prose"])
    outcomes = [plan.spec().run(planned["parent:b"]).scores["prose"].values]
    for folder in (out, paths["b"]):
        alone = load_resident(Checkpoint.open(folder), folder, None, "cpu")
        outcomes.append(evaluator.score(alone, split_ids(evaluator, "search", plan.spec.split)).values)
    np.testing.assert_array_equal(outcomes[0], outcomes[1])
    np.testing.assert_array_equal(outcomes[0], outcomes[2])


def test_a_parent_under_its_own_configuration_with_the_merges_rows_is_not_exported(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    other_letters(paths["b"])
    change(paths["b"], rms_norm_eps=0.1)
    config = load_config(search_file(tmp_path, paths, tokenizer="union"))
    plan = prepare(config)
    planned = {trial.label: trial for trial in plan.planned}
    with pytest.raises(MergeError, match=r"parent:b .*rms_norm_eps is 0\.1.* Use the model itself"):
        merge_of(planned["parent:b"], config.recipe(), lambda: plan.space)
    assert merge_of(planned["parent:a"], config.recipe(), lambda: plan.space).recipe.tokenizer == "union"


def test_rows_in_the_order_of_the_merges_tokenizer_are_named_in_check_and_verdict(tmp_path: Path) -> None:
    paths = write_network(tmp_path, "llama")
    other_letters(paths["b"])
    added = json.loads((paths["b"] / "tokenizer.json").read_text(encoding="utf-8"))
    added["normalizer"] = {"type": "Lowercase"}
    (paths["b"] / "tokenizer.json").write_text(json.dumps(added), encoding="utf-8")
    text = tmp_path / "text.txt"
    file = search_file(tmp_path, paths, tokenizer="union")
    text.write_text(text.read_text(encoding="utf-8").replace("there", "There"), encoding="utf-8")
    plan = prepare(load_config(file))
    assert plan.spec.own == ()
    assert "in the order of the merge's tokenizer" in plan.borrowed["parent:b"]
    done = CliRunner().invoke(app, ["search", str(file)])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "Scored with the merge's tokenizer, though their own reads the tasks otherwise: parent:b" in said
