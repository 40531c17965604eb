"""Configurations of mergekit and mergekit-evolve from the command line: merged as they are, or made ours."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.commands.import_file import import_file
from evomerge.config import load_config
from evomerge.merging.mergekit.configuration import InteropError
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.recipe.file import read_merge, read_own
from evomerge.space import build_space
from tests.evomerge.merging.folders import bare, llama, tokenizer

MODELS = ("base", "math", "code")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODELS):
        tokenizer(llama(folder / name, seed, num_hidden_layers=4, max_position_embeddings=64))
    return folder


@pytest.fixture(autouse=True)
def _in_their_folder(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


TIES = """\
merge_method: ties
base_model: base
models:
  - {model: math, parameters: {weight: [0, 1], density: 0.5}}
  - {model: code, parameters: {weight: 0.25}}
dtype: bfloat16
"""


def test_a_mergekit_file_is_merged_as_it_is_and_as_the_recipe_it_becomes(tmp_path: Path) -> None:
    file, recipe = tmp_path / "config.yml", tmp_path / "recipe.yaml"
    file.write_text(TIES + "chat_template: \"{{ messages[0]['content'] }}\"\ntokenizer: {source: math}\n")
    done = run("merge", file, "-o", tmp_path / "direct")
    assert done.exit_code == 0, done.output
    done = run("import", file, "-o", recipe)
    assert (done.exit_code, "Wrote the recipe" in done.output) == (0, True), done.output
    assert all(Path(model.path).is_absolute() for model in read_merge(recipe).recipe.inputs)
    assert run("merge", recipe, "-o", tmp_path / "imported").exit_code == 0
    for written in ("model.safetensors", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "direct" / written).read_bytes() == (tmp_path / "imported" / written).read_bytes()
    assert (tmp_path / "direct" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
    assert run("import", file, "-o", recipe).exit_code == 2
    assert run("import", file, "-o", recipe, "--overwrite").exit_code == 0


def test_slices_of_a_model_with_two_stacks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    stacks = ("language_model.model", "vision_tower.encoder")
    bare(tmp_path / "a", {f"{stack}.layers.{n}.fc.weight": torch.ones(2, 2) for stack in stacks for n in (0, 1)})
    file = tmp_path / "config.yml"
    sources = f"{{sources: [{{model: {tmp_path / 'a'}, layer_range: [0, 2]}}]}}"
    file.write_text(f"merge_method: passthrough\nslices: [{sources}, {sources}]\n")
    done = run("import", file, "-o", tmp_path / "recipe.yaml")
    said = " ".join(done.output.split())
    assert (done.exit_code, (tmp_path / "recipe.yaml").exists()) == (3, False), said
    assert "2 stacks of blocks, and slices are for models with one: 'language_model.model' (2), 'vision_" in said


def test_lenient_ignores_unknown_keys_with_notes(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(TIES + "dtpye: float32\n")
    for command in ("merge", "import"):
        refused = run(command, file, "-o", tmp_path / "out")
        assert (refused.exit_code, "config.yml:7: dtpye: unknown key" in refused.output) == (2, True)
        done = run(command, file, "-o", tmp_path / command, "--lenient", "--json")
        assert done.exit_code == 0, done.output
        assert "dtpye was ignored" in json.loads(done.output)["notes"][0]


def test_the_kind_of_a_file_follows_from_its_contents(tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(TIES)
    (tmp_path / "mergekit.yml").write_text("evomerge: 1\nbase: base\ninputs: [math]\nmethod: linear\n")
    assert read_own(tmp_path / "recipe.yml") is None
    read = read_own(tmp_path / "mergekit.yml")
    assert read is not None
    assert read.merge.recipe.method == "linear"
    (tmp_path / "other.yml").write_text("models: [a]\nmethod: ties\n")
    with pytest.raises(InteropError, match=r"not a configuration of mergekit .*it has the keys models, method"):
        import_file(tmp_path / "other.yml", tmp_path / "out", lenient=False, overwrite=False)


def test_booleans_as_numbers(tmp_path: Path) -> None:
    sources = [
        [
            {"layer_range": ends, "model": "math", "parameters": {"weight": weight}},
            {"layer_range": ends, "model": "base"},
        ]
        for ends, weight in (([0, 2], 0.3254), ([2, 4], 0.7))
    ]

    def configuration(**parameters: float) -> dict[str, Any]:
        slices = [{"sources": each} for each in sources]
        settings = {"base_model": "base", "dtype": "float32", "merge_method": "task_arithmetic"}
        return {**settings, "parameters": parameters, "slices": slices}

    merged = []
    for number, numbers in enumerate(({"int8_mask": 1.0, "normalize": 0.0}, {"int8_mask": True, "normalize": False})):
        file = tmp_path / f"{number}.yml"
        file.write_text(strict_yaml.dump(configuration(**numbers)))
        done = run("merge", file, "-o", tmp_path / str(number))
        assert done.exit_code == 0, done.output
        merged.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert merged[0] == merged[1]
    for name in ("normalize", "int8_mask", "rescale"):
        file.write_text(strict_yaml.dump(configuration(**{name: 0.5})))
        refused = run("merge", file, "-o", tmp_path / "out")
        assert (refused.exit_code, f"parameters.{name}: expected true or false" in refused.output) == (2, True)


MULTI = """\
merge_method: slerp
base_model: math
models: [{model: math}, {model: first}]
parameters: {t: 0.5}
---
name: first
merge_method: linear
models: [{model: math, parameters: {weight: 0.5}}, {model: code, parameters: {weight: 0.5}}]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MULTI, "mergekit-multi with 2 merges.* in this order: 'first' \\(line 6\\), the unnamed one \\(line 1\\)"),
        (
            "base_model: a\ngate_mode: hidden\nexperts: [{source_model: a}]\n",
            "configuration of mergekit-moe: .*Build it",
        ),
        ("base_model: a\nexperts: [{source_model: a, positive_prompts: [x]}]\n", "configuration of mergekit-moe"),
        ("layer_slices: [{model: a, start: 0, end: 2}]\n", "configuration of bakllama: .*merge_method: passthrough"),
        ("model_type: x\npre_weights: []\nlayer_templates: {}\n", "description of an architecture for mergekit"),
        ("base: a\nexperts: [b]\ntasks: {}\n", "an evomerge search file: use it with `evomerge check"),
        ("a: 1\n---\nb: 2\n", "holds 2 YAML documents, at lines 1, 3; expected one"),
    ],
)
def test_files_of_other_mergekit_tools(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(text)
    commands = [("import", "-o", tmp_path / "r.yaml"), ("merge", "-o", tmp_path / "out")]
    for command, *options in commands if "search file" in message else [*commands, ("check",)]:
        refused = run(command, file, *options)
        assert refused.exit_code == 2, refused.output
        assert re.search(message, refused.output), refused.output


def test_merges_of_a_mergekit_multi_file_run_one_by_one(tmp_path: Path, models: Path) -> None:
    for text, name in zip(reversed(MULTI.split("---\n")), ("first", "last"), strict=True):
        (tmp_path / f"{name}.yml").write_text(text)
        done = run("merge", tmp_path / f"{name}.yml", "-o", name)
        assert done.exit_code == 0, done.output
        if name == "first":
            assert "name, which only mergekit-multi reads, was ignored" in done.output
        shutil.move(models / name, tmp_path) if name == "last" else None
    shutil.rmtree(models / "first")


def test_a_file_of_another_kind_is_named_where_a_search_file_is_expected(tmp_path: Path) -> None:
    for text, kind in ((TIES, "a mergekit configuration"), ("evomerge: 1\nbase: base\n", "an evomerge recipe")):
        (tmp_path / "some.yaml").write_text(text)
        refused = run("check", tmp_path / "some.yaml")
        assert (refused.exit_code, kind in refused.output) == (2, True), refused.output


EVOLVE = """\
genome:
  models: [math, code]
  merge_method: METHOD
  base_model: base
GENOME
tasks:
  - name: arc_easy
  - {name: gsm8k, weight: 2, metric: "exact_match,strict-match"}
limit: 50
num_fewshot: 3
"""


def evolved(tmp_path: Path, method: str, *genome: str, text: str = EVOLVE) -> tuple[Any, dict[str, Any]]:
    """The search file of a configuration, loaded, and what its import said."""
    file, output = tmp_path / "evolve.yml", tmp_path / "search.yaml"
    lines = "\n".join(f"  {line}" for line in genome)
    file.write_text(text.replace("METHOD", method).replace("GENOME", lines))
    said = import_file(file, output, lenient=False, overwrite=True)
    return load_config(output), said


def dimension(config: Any) -> int:
    layout = Checkpoint.open(config.base.path).layout()
    return build_space(config.space, config.recipe(), layout).dimension


def test_an_evolution_becomes_a_search(tmp_path: Path) -> None:
    config, said = evolved(tmp_path, "ties", "normalize: 0.0", "smooth: 'no'", "tokenizer_source: union")
    assert [(model.name, Path(model.path).name) for model in config.experts] == [("math", "math"), ("code", "code")]
    assert (config.method.kind, config.method.options) == ("ties", {"normalize": False, "compat": "mergekit"})
    assert (config.dtype, config.tokenizer, config.optimizer.kind, config.budget.trials) == (
        *("bfloat16", "union", "cma_es", 100),
    )
    assert config.objective_for((), ()).weights == {"arc_easy": 1, "gsm8k": 2}
    everything = {"limit": 50, "num_fewshot": 3, "apply_chat_template": True, "fewshot_as_multiturn": True}
    assert config.tasks["arc_easy"].options == {"task": "arc_easy", "metric": "acc", "filter": "none", **everything}
    assert config.tasks["gsm8k"].options["metric"] == "exact_match"
    assert config.tasks["gsm8k"].options["filter"] == "strict-match"
    assert any("bounds" in note for note in said["notes"])
    assert "# Note: " in (tmp_path / "search.yaml").read_text()


@pytest.mark.parametrize(
    ("method", "genome", "genes"),
    [
        # mergekit-evolve has runs of layers * models * (filters + 1) * parameters genes.
        ("ties", [], 1 * 2 * 1 * 2),
        ("task_arithmetic", ["layer_granularity: 1"], 4 * 2 * 1 * 1),
        ("dare_ties", ["layer_granularity: 2"], 2 * 2 * 1 * 2),
        ("task_arithmetic", ["layer_granularity: 2", "filters: [self_attn, mlp]"], 2 * 2 * 3 * 1),
        ("linear", ["filters: [mlp, input_layernorm, post_attention_layernorm]"], None),
        ("ties", ["filters: [mlp]"], 1 * 2 * 2 * 2),
    ],
)
def test_the_search_has_the_genes_of_the_evolution(
    tmp_path: Path, method: str, genome: list[str], genes: int | None
) -> None:
    if genes is None:
        with pytest.raises(InteropError, match="filters may not divide the norm tensors of a layer"):
            evolved(tmp_path, method, *genome)
        return
    assert dimension(evolved(tmp_path, method, *genome)[0]) == genes


def test_layers_of_a_run_share_and_ends_belong_to_the_first_and_the_last(tmp_path: Path) -> None:
    config, _ = evolved(tmp_path, "task_arithmetic", "layer_granularity: 2", "allow_negative_weights: 1.0")
    space = build_space(config.space, config.recipe(), Checkpoint.open(config.base.path).layout())
    table = space.decode(np.array([0.0, 0.25, 0.5, 1.0]))
    weights = {group: table.at(members[0])["weight"].tolist() for group, members in table.groups.items()}
    assert weights["embedding"] == weights["block.0"] == weights["block.1"]
    assert weights["norm"] == weights["head"] == weights["block.2"] == weights["block.3"]
    assert sorted(weights["block.0"] + weights["block.3"]) == [-1.0, -0.5, 0.0, 1.0]


def test_gradients_and_the_slerp_of_two(tmp_path: Path) -> None:
    config, said = evolved(tmp_path, "ties", "smooth: true", "layer_granularity: 2")
    assert (config.space.kind, config.space.options["points"]) == ("smooth", 2)
    assert any(note.startswith("smooth: ") for note in said["notes"])
    config, _ = evolved(tmp_path, "slerp", text=EVOLVE.replace("  base_model: base\n", ""))
    assert (Path(config.base.path).name, [model.name for model in config.experts]) == ("math", ["code"])
    assert dimension(config) == 1


@pytest.mark.parametrize(
    ("method", "genome", "message"),
    [
        ("slerp", [], "slerp with other than two models, or a base_model that is not one of them, is not supported"),
        ("della", [], "genome.merge_method: expected one of 'task_arithmetic', .*; got 'della'"),
        ("ties", ["layer_granularity: 3"], "3 does not divide the 4 layers of base"),
        ("ties", ["layer_granulrity: 3"], "unknown key 'layer_granulrity'; did you mean 'layer_granularity'"),
        ("ties", ["tokenizer_source: other"], "other is not in the merge"),
        ("ties", ["normalize: 0.5"], "genome.normalize: expected true or false .*; got 0.5"),
        ("ties", ["allow_negative_weights: some"], "expected true or false .*; got 'some'"),
    ],
)
def test_unsupported_genomes_are_errors(tmp_path: Path, method: str, genome: list[str], message: str) -> None:
    with pytest.raises(InteropError, match=message):
        evolved(tmp_path, method, *genome)
