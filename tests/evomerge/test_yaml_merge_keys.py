"""Merge keys in every file that people write: read as if each mapping were written out."""

from pathlib import Path

import yaml

from evomerge.config import load_config
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.recipe.file import read_merge
from tests.toys import write_toys

MERGEKIT = """
models:
  - model: a.safetensors
    parameters: &shared {weight: 0.4, density: 0.3}
  - model: b.safetensors
    parameters:
      <<: *shared
      weight: 0.6
base_model: base.safetensors
merge_method: ties
dtype: float32
"""
RECIPE = """
evomerge: 1
base: base.safetensors
inputs:
  a: &expert {path: a.safetensors, revision: main}
  b: {<<: *expert, path: b.safetensors}
method: task_arithmetic
coefficients: {weight: [0.4, 0.6]}
"""
SEARCH = """
base: base.safetensors
experts: {a: a.safetensors, b: b.safetensors}
method: ties
space: uniform
tasks:
  one: &task {evaluator: synthetic, n_examples: 40, task: 0}
  two: {<<: *task, task: 1}
optimizer: random
budget: {trials: 4}
study: study
"""


def test_yaml_merge_keys_in_a_mergekit_file(tmp_path: Path) -> None:
    write_toys(tmp_path)
    merged, plain = both(tmp_path, MERGEKIT)
    merge = read_mergekit(merged)
    assert merge == read_mergekit(plain)
    assert merge.table.values["density"].tolist() == [[0.3, 0.3]]
    assert merge.table.values["weight"].tolist() == [[0.4, 0.6]]


def test_yaml_merge_keys_in_a_recipe(tmp_path: Path) -> None:
    merged, plain = both(tmp_path, RECIPE)
    merge = read_merge(merged)
    assert merge == read_merge(plain)
    assert [model.revision for model in merge.recipe.inputs] == ["main", "main"]
    assert [model.path for model in merge.recipe.inputs] == ["a.safetensors", "b.safetensors"]


def test_yaml_merge_keys_in_a_search_file(tmp_path: Path) -> None:
    write_toys(tmp_path)
    merged, plain = both(tmp_path, SEARCH)
    config = load_config(merged)
    assert config.as_dict() == load_config(plain).as_dict()
    assert {name: task.options["task"] for name, task in config.tasks.items()} == {"one": 0, "two": 1}
    assert config.tasks["two"].options["n_examples"] == 40


def both(folder: Path, text: str) -> tuple[Path, Path]:
    """The file as it is, and with its merge keys written out by PyYAML."""
    merged, plain = folder / "merged.yaml", folder / "plain.yaml"
    merged.write_text(text)
    plain.write_text(yaml.safe_dump(yaml.safe_load(text), sort_keys=False))
    assert "<<" not in plain.read_text()
    return merged, plain
