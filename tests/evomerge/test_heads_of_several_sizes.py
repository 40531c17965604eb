"""Experts whose classification heads have other numbers of labels: bodies are merged, heads stay with their models."""

import json
from pathlib import Path

import pytest
import torch
import transformers as tf

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import Bench, BenchSpec
from evomerge.config import load_config
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Recipe
from evomerge.trial import Trial
from tests.architectures.kinds import ENCODER, VISION
from tests.architectures.models import run, write_images, write_processor, write_tokenizer

SHAPES = {"BertForSequenceClassification": ENCODER, "ViTForImageClassification": VISION}
TEXT = "BertForSequenceClassification"
IMAGE = "ViTForImageClassification"


def write(folder: Path, architecture: str, labels: dict[str, int]) -> dict[str, str]:
    """Models with these numbers of labels, whose bodies are fine-tunes of one; without a tokenizer for images."""
    kind = getattr(tf, architecture)
    torch.manual_seed(0)
    start = kind(kind.config_class(**SHAPES[architecture], num_labels=2)).base_model.state_dict()
    for seed, (name, count) in enumerate(labels.items()):
        torch.manual_seed(1 + seed)
        network = kind(kind.config_class(**SHAPES[architecture], num_labels=count))
        network.base_model.load_state_dict(start)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        network.save_pretrained(folder / name)
        if architecture == TEXT:
            write_tokenizer(folder / name)
    return {name: str(folder / name) for name in labels}


def search_file(folder: Path, models: dict[str, str], tasks: dict, **changes: object) -> Path:
    settings = {
        "base": models["base"],
        "experts": {name: path for name, path in models.items() if name != "base"},
        "method": "task_arithmetic",
        "space": "layerwise",
        "tasks": tasks,
        "optimizer": "random",
        "budget": {"trials": 4},
        "executor": "serial",
        "device": "cpu",
        "study": "study",
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings | changes))
    return file


def texts(folder: Path, name: str, count: int) -> str:
    lines = [{"text": f"{n} dogs saw {n * 37 % 100} cats", "label": n % count} for n in range(40)]
    (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return name


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    texts(tmp_path, "two.jsonl", 2)
    texts(tmp_path, "five.jsonl", 5)
    return write(tmp_path, TEXT, {"base": 3, "two": 2, "five": 5})


TASKS = {
    name: {"evaluator": "sequence_classification", "file": f"{name}.jsonl", "head": name, "score": "logprob"}
    for name in ("two", "five")
}


def test_a_search_scores_every_task_by_the_head_of_its_expert(bert: dict[str, str], tmp_path: Path) -> None:
    file = search_file(tmp_path, bert, TASKS)
    code, said = run("check", file)
    assert code == 0, said
    assert "two, five: another number of labels than the base's, so classifier.bias, classifier.weight" in said, said
    code, said = run("search", file, "--json")
    assert code == 0, said
    assert '"winner"' in said
    code, said = run("export", tmp_path / "study", "-o", tmp_path / "merged")
    assert code == 0, said
    merged = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    base = tf.AutoModelForSequenceClassification.from_pretrained(bert["base"])
    assert torch.equal(merged.classifier.weight, base.classifier.weight)


def test_an_expert_is_scored_as_it_scores_by_itself(bert: dict[str, str], tmp_path: Path) -> None:
    config = load_config(search_file(tmp_path, bert, TASKS))
    bench = Bench(BenchSpec(config.recipe(), config.space, dict(config.tasks), (1.0, 0.0, 0.0), "cpu"))
    table = bench.space.decode(bench.space.default())
    alone = {name: array.copy() for name, array in table.values.items()}
    alone["weight"][:] = [0.0, 1.0]
    x = bench.space.encode(type(table)(table.groups, alone))
    outcome = bench.run(Trial(0, x))
    assert outcome.failure is None, outcome.failure
    five = tf.AutoModelForSequenceClassification.from_pretrained(bert["five"])
    tokenizer = tf.AutoTokenizer.from_pretrained(bert["five"])
    lines = [json.loads(line) for line in (tmp_path / "five.jsonl").read_text().splitlines()]
    with torch.no_grad():
        logs = [five(**tokenizer(line["text"], return_tensors="pt")).logits[0].log_softmax(-1) for line in lines]
    wanted = [float(row[line["label"]]) for row, line in zip(logs, lines, strict=True)]
    assert outcome.scores["five"].choices is not None
    assert len(outcome.scores["five"].choices[0]) == 5
    assert outcome.scores["five"].values == pytest.approx(wanted, abs=1e-4)


def test_gradients_flow_through_a_head_of_another_size(bert: dict[str, str], tmp_path: Path) -> None:
    code, said = run("search", search_file(tmp_path, bert, TASKS, optimizer="gradient", budget={"trials": 6}), "--json")
    assert code == 0, said
    assert '"gradient_steps": 0' not in said.splitlines()[-2]
    assert '"winner"' in said


def test_check_knows_the_head_of_the_expert(bert: dict[str, str], tmp_path: Path) -> None:
    wrong = {"mine": {**TASKS["five"], "head": "two"}}
    code, said = run("check", search_file(tmp_path, bert, wrong))
    assert code == 2
    assert "five.jsonl, line 3: the label is 2; expected a number from 0 to 1" in " ".join(said.split())
    names = {"mine": {**TASKS["two"], "labels": ["a", "b", "c"]}}
    code, said = run("check", search_file(tmp_path, bert, names))
    assert code == 2
    assert "`labels` has 3 names; the head has 2 outputs" in " ".join(said.split())


def test_images_of_networks_without_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    write_processor(tmp_path / "processor")
    models = write(tmp_path, IMAGE, {"base": 3, "a": 2, "b": 3})
    task = {"evaluator": "image_classification", "folder": "images", "processor": "processor", "score": "logprob"}
    own = {"labels": ["LABEL_0", "LABEL_1"], "head": "a"}
    file = search_file(tmp_path, models, {"mine": {**task, **own}, "merged": task})
    code, said = run("search", file, "--json")
    assert code == 0, said
    assert '"winner"' in said


def test_other_shapes_are_refused_as_before(tmp_path: Path) -> None:
    models = write(tmp_path, TEXT, {"base": 3, "two": 2})
    kind = tf.BertForSequenceClassification
    kind(kind.config_class(**{**ENCODER, "intermediate_size": 32}, num_labels=2)).save_pretrained(tmp_path / "two")
    recipe = Recipe(Input("base", models["base"]), (Input("two", models["two"]),), "linear")
    with pytest.raises(CheckpointError, match="differ in shape between the base and two"):
        open_models(recipe)
