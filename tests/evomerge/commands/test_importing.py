"""Configurations of mergekit and mergekit-evolve from the command line: merged as they are, or made ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.commands.importing import import_file
from evomerge.config import load_config
from evomerge.merging.interop.mergekit_configuration import InteropError
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.recipe_file import read_merge, read_own
from evomerge.trial import build_space
from tests.evomerge.merging.folders import llama, tokenizer

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


def test_lenience_and_its_notes(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(TIES + "dtpye: float32\n")
    for command in ("merge", "import"):
        refused = run(command, file, "-o", tmp_path / "out")
        assert (refused.exit_code, "config.yml:7: dtpye: unknown key" in refused.output) == (2, True)
        done = run(command, file, "-o", tmp_path / command, "--lenient", "--json")
        assert done.exit_code == 0, done.output
        assert "dtpye was passed over" in json.loads(done.output)["notes"][0]


def test_what_a_file_is_shows_in_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(TIES)
    (tmp_path / "mergekit.yml").write_text("evomerge: 1\nbase: base\ninputs: [math]\nmethod: linear\n")
    assert read_own(tmp_path / "recipe.yml") is None
    read = read_own(tmp_path / "mergekit.yml")
    assert read is not None
    assert read.merge.recipe.method == "linear"
    (tmp_path / "other.yml").write_text("models: [a]\nmethod: ties\n")
    with pytest.raises(InteropError, match=r"no configuration of mergekit .*it has the keys models, method"):
        import_file(tmp_path / "other.yml", tmp_path / "out", lenient=False, overwrite=False)


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
    config, said = evolved(tmp_path, "ties", "normalize: false", "tokenizer_source: union")
    assert [(model.name, Path(model.path).name) for model in config.experts] == [("math", "math"), ("code", "code")]
    assert (config.method.kind, config.method.options) == ("ties", {"normalize": False, "compat": "mergekit"})
    assert (config.dtype, config.tokenizer, config.optimizer.kind, config.budget.trials) == (
        *("bfloat16", "union", "cma_es", 100),
    )
    assert config.aim((), ()).weights == {"arc_easy": 1, "gsm8k": 2}
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
    config, _ = evolved(tmp_path, "task_arithmetic", "layer_granularity: 2", "allow_negative_weights: true")
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
        ("slerp", [], "slerp with other than two models, or a base_model that is none of them, is not supported"),
        ("della", [], "genome.merge_method: expected one of 'task_arithmetic', .*; got 'della'"),
        ("ties", ["layer_granularity: 3"], "3 does not divide the 4 layers of base"),
        ("ties", ["layer_granulrity: 3"], "unknown key 'layer_granulrity'; did you mean 'layer_granularity'"),
        ("ties", ["tokenizer_source: other"], "other takes no part in the merge"),
    ],
)
def test_refusals(tmp_path: Path, method: str, genome: list[str], message: str) -> None:
    with pytest.raises(InteropError, match=message):
        evolved(tmp_path, method, *genome)
