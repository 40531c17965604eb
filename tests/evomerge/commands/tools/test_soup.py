"""`evomerge tools soup`, then `evomerge merge`, on the tiny trained models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from scipy import stats
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.commands.tools.soup import split_examples
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.prepare.calibration import collect
from evomerge.prepare.calibration.data import Example, encode_texts, read_texts
from evomerge.recipe.file import read_merge
from tests.conftest import TinyModels

NAMES = ("count", "largest", "sort")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def learned(tiny: TinyModels, data: Path, output: Path, *options: object) -> dict[str, Any]:
    done = run(
        "tools", "soup", tiny.base, *(tiny.experts[n] for n in NAMES), "--data", data, "-o", output, "--json", *options
    )
    assert done.exit_code == 0, done.output
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.fixture(scope="module")
def soup(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    file = tmp_path_factory.mktemp("soup") / "recipe.yaml"
    return learned(tiny, tiny.tasks["sort"], file), file


def losses_of(network: Any, examples: list[Example]) -> list[float]:
    found = []
    for example in examples:
        with torch.no_grad():
            chances = network(input_ids=torch.tensor([example.tokens])).logits[0].log_softmax(-1)
        labels = range(example.first, len(example.tokens))
        found.append(-sum(float(chances[i - 1, example.tokens[i]]) for i in labels) / len(labels))
    return found


def test_the_weight_goes_to_the_model_that_knows_the_task(soup: tuple[dict[str, Any], Path]) -> None:
    facts, _ = soup
    weights = facts["weights"]["all"]
    assert list(weights) == list(NAMES)
    assert weights["sort"] > 0.6
    assert sum(weights.values()) == pytest.approx(1.0, abs=2e-5)
    assert facts["epochs"] == sorted(facts["epochs"], reverse=True)
    assert facts["temperature"] != 1.0, "prompts with answers are learned with a temperature"
    assert facts["uniform"]["soup_is_better"]
    assert facts["models"]["sort"]["loss"] < facts["models"]["count"]["loss"]


def test_the_recipe_merges_into_the_model_that_was_scored(
    tiny: TinyModels, soup: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """What is reported is the loss of the merged folder on the examples that were not learned from."""
    facts, file = soup
    assert run("merge", file, "-o", tmp_path / "out").exit_code == 0
    weights = read_merge(file).table.values["weight"][0]
    assert weights.tolist() == list(facts["weights"]["all"].values())
    assert dict(read_merge(file).table.groups) == {"all": ("*",)}
    merged = load_file(tmp_path / "out" / "model.safetensors")
    experts = [Checkpoint.open(tiny.experts[name]) for name in NAMES]
    for name, tensor in merged.items():
        average = sum(w / weights.sum() * e.tensor(name).double() for w, e in zip(weights, experts, strict=True))
        torch.testing.assert_close(tensor.double(), average, rtol=1e-5, atol=1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.base)
    parts = split_examples(encode_texts(read_texts(tiny.tasks["sort"]), tokenizer, 512))
    assert facts["examples"] == {"learned": len(parts.training), "held_out": len(parts.held_out)}
    assert not set(parts.training) & set(parts.held_out)
    own = losses_of(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out"), parts.held_out)
    assert facts["loss"] == pytest.approx(np.mean(own), rel=1e-5)
    alone = losses_of(transformers.AutoModelForCausalLM.from_pretrained(tiny.experts["count"]), parts.held_out)
    compared, gain = facts["models"]["count"], np.subtract(alone, own)
    assert compared["loss"] == pytest.approx(np.mean(alone), rel=1e-5)
    half = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain)
    assert compared["interval"] == pytest.approx([gain.mean() - half, gain.mean() + half], rel=1e-4)


def test_weights_by_layer_merge_and_are_said_per_tensor(tiny: TinyModels, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    facts = learned(tiny, tiny.tasks["sort"], file, "--by-layer", "--epochs", 2)
    merge = read_merge(file)
    assert list(merge.table.groups) == list(Checkpoint.open(tiny.base).names)
    rows = np.array([list(row.values()) for row in facts["weights"].values()])
    assert np.array_equal(merge.table.values["weight"], rows)
    assert len(np.unique(rows, axis=0)) > 10
    assert run("merge", file, "-o", tmp_path / "out").exit_code == 0


def test_the_same_call_gives_the_same_bytes(tiny: TinyModels, tmp_path: Path) -> None:
    options = ("--epochs", 1, "--examples", 20)
    for name, more in {"a": (), "b": (), "c": ("--seed", 1)}.items():
        learned(tiny, tiny.tasks["sort"], tmp_path / f"{name}.yaml", *options, *more)
    first, again, other = ((tmp_path / f"{name}.yaml").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_a_soup_not_shown_to_be_better_is_reported(tiny: TinyModels, tmp_path: Path) -> None:
    """On texts that no expert was trained for, the same model three times: nothing is there to gain."""
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": f"sort {n} ="}) + "\n" for n in range(100, 112)))
    arguments = ("tools", "soup", tiny.base, *[tiny.experts["count"]] * 3, "--data", data, "-o", tmp_path / "r.yaml")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "The soup is NOT shown to be better than the uniform average." in done.stdout
    assert "WORSE" not in done.stdout
    assert "outputs scaled" not in done.stdout, "plain texts are learned without a temperature"
    for name in ("count", "count-2", "count-3"):
        assert f"weight of {name}: 0.333" in done.stdout


def test_a_better_single_model_is_reported(tiny: TinyModels, tmp_path: Path) -> None:
    models = (tiny.experts[name] for name in NAMES)
    done = run(
        "tools", "soup", tiny.base, *models, "--data", tiny.tasks["sort"], "-o", tmp_path / "r.yaml", "--epochs", 1
    )
    assert done.exit_code == 0, done.output
    assert "The soup is WORSE than sort alone;" in done.stdout
    assert "The soup is WORSE than count alone;" not in done.stdout


def test_invalid_arguments_are_errors_before_learning(tiny: TinyModels, tmp_path: Path) -> None:
    models, data, output = [tiny.experts["count"], tiny.experts["sort"]], tiny.tasks["sort"], tmp_path / "r.yaml"
    there = tmp_path / "there.yaml"
    there.write_text("mine")
    single = tmp_path / "one.jsonl"
    single.write_text('{"prompt": "sort 806 =", "answer": "068"}\n')
    for arguments, code, message in (
        ([tiny.base, *models, "--data", data, "-o", there], 2, "exists"),
        ([tiny.base, models[0], "--data", data, "-o", output], 2, "at least two models; got 1"),
        ([tiny.base, *models, "--data", tmp_path / "gone.txt", "-o", output], 2, "gone.txt does not exist"),
        ([tiny.base, *models, "--data", single, "-o", output], 2, "Of 1 examples"),
        ([tiny.base, models[0], tmp_path / "gone", "--data", data, "-o", output], 3, "does not exist"),
        ([tiny.base, *models, "--data", data, "-o", output, "--lr", "0"], 2, "learning rate is 0.0"),
        ([tiny.base, *models, "--data", data, "-o", output, "--dtype", "int8"], 2, "dtype is 'int8'"),
        ([tiny.base, *models, "--data", data, "-o", output, "--length", "1"], 2, "length is 1"),
        (
            [tiny.base, *models, "--data", data, "-o", output, "--tokenizer", "other"],
            2,
            "expected base, union, count, sort",
        ),
    ):
        result = run("tools", "soup", *arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert message in result.stderr, (message, result.stderr)
        assert "Traceback" not in result.output
    assert there.read_text() == "mine"
    assert not output.exists()


def test_memory_is_checked_before_anything_is_loaded(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbytes = sum(tensor.nbytes for tensor in load_file(tiny.base / "model.safetensors").values())
    monkeypatch.setattr(collect, "available_memory", lambda: 2 * nbytes)
    models = (tiny.experts[name] for name in NAMES)
    done = run(
        "tools", "soup", tiny.base, *models, "--data", tiny.tasks["sort"], "-o", tmp_path / "r.yaml", "--device", "cpu"
    )
    assert done.exit_code == 2
    assert "The model and its gradient need" in done.stderr
    assert "--dtype bfloat16" in done.stderr
