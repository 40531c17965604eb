"""Models and adapters of the hub by their names, in every file and command, from a real download cache."""

import json
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.config import load_config
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.models.adapter import Adapted
from evomerge.merging.models.checkpoint import Checkpoint, ModelNotFound
from evomerge.recipe import Input
from evomerge.recipe.file import read_merge
from evomerge.recipe.model_names import named_input, portable, relative_path
from tests.evomerge.merging.adapters import bare_lora
from tests.evomerge.merging.folders import cached, llama

COMMIT = "4d7a" * 10
ON_HUB = {"path": "org/lora1", "revision": COMMIT}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model `base`, and a cache with the model org/tuned and the adapter org/lora1."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    llama(folder / "base")
    assert cached(tmp_path / "hub", "org/tuned", llama(tmp_path / "tuned", 1)) == COMMIT
    torch.manual_seed(0)
    module = "model.layers.0.self_attn.q_proj"
    parts = {f"{module}.lora_A.weight": torch.randn(1, 16), f"{module}.lora_B.weight": torch.randn(16, 1)}
    cached(tmp_path / "hub", "org/lora1", bare_lora(tmp_path / "lora", parts))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


MERGEKIT = """\
merge_method: task_arithmetic
base_model: base
models: [{model: "base+org/lora1", parameters: {weight: 0.5}}]
dtype: float32
"""
RECIPE = """\
evomerge: 1
base: base
inputs: {a: {path: base, adapter: ADAPTER}}
method: task_arithmetic
coefficients: {weight: 0.5}
dtype: float32
"""


def test_hub_adapters(hub: Path) -> None:
    adapter = hub.parent / "hub" / "models--org--lora1" / "snapshots" / COMMIT
    whole = Adapted(Checkpoint.open("base"), adapter)
    name = "model.layers.0.self_attn.q_proj.weight"
    start = written(hub / "base")[name]
    expected = start + 0.5 * (whole.tensor(name) - start)
    files = {"kit.yaml": MERGEKIT, "pinned.yaml": MERGEKIT.replace("lora1", f"lora1@{COMMIT}")}
    for number, named in enumerate(("org/lora1", "org/lora1@main", "{path: org/lora1, revision: main}", str(adapter))):
        files[f"recipe{number}.yaml"] = RECIPE.replace("ADAPTER", named)
    for file, text in files.items():
        (hub / file).write_text(text)
        out = hub / f"out-{file}"
        done = run("merge", file, "-o", out)
        assert done.exit_code == 0, done.output
        torch.testing.assert_close(written(out)[name], expected)
        kept = read_merge(out / "recipe.yaml").recipe.inputs[0]
        assert (kept.adapter, kept.adapter_revision) == ("org/lora1", COMMIT)
        text = (out / "mergekit_config.yml").read_text()
        assert f"model: ../base+org/lora1@{COMMIT}" in text
        assert (read_mergekit(out / "mergekit_config.yml").recipe.inputs[0].adapter_revision) == COMMIT
        card = strict_yaml.load((out / "README.md").read_text().split("---\n")[1]).data
        assert card["base_model"] == ["org/lora1"]
        inputs = json.loads((out / "evomerge.json").read_text())["inputs"]
        assert [entry.get("adapter_revision") for entry in inputs.values()] == [None, COMMIT]
        again = run("merge", out / "recipe.yaml", "-o", hub / f"again-{file}")
        assert again.exit_code == 0, again.output
        assert torch.equal(written(hub / f"again-{file}")[name], written(out)[name])
    done = run("import", "kit.yaml", "-o", "imported.yaml")
    assert done.exit_code == 0, done.output
    assert strict_yaml.load((hub / "imported.yaml").read_text()).data["inputs"][0]["adapter"] == {
        "path": "org/lora1",
        "revision": "main",
    }


def test_an_adapter_that_is_nowhere_is_named(hub: Path) -> None:
    (hub / "recipe.yaml").write_text(RECIPE.replace("ADAPTER", "org/other"))
    refused = run("merge", "recipe.yaml", "-o", "out")
    assert (
        refused.exit_code,
        "'org/other' is not a local path, and the Hugging Face hub" in refused.output,
    ) == (
        3,
        True,
    )


def test_models_are_named_alike_in_search_files_and_by_init(hub: Path) -> None:
    (hub / "words.jsonl").write_text('{"text": "a b c"}\n' * 3)
    experts = ("org/tuned", "base+org/lora1@main", f"org/tuned@{COMMIT}", "org/lora1")
    done = run("init", "base", *experts, "--task", "words.jsonl", "-o", "search.yaml")
    assert done.exit_code == 0, done.output
    recipe = load_config(hub / "search.yaml").recipe()
    assert recipe.base == Input("base", str(hub / "base"))
    assert recipe.inputs == (
        Input("tuned", "org/tuned", "main"),
        Input("lora1", str(hub / "base"), adapter="org/lora1", adapter_revision="main"),
        Input("tuned-2", "org/tuned", COMMIT),
        Input("lora1-2", "org/lora1", "main"),
    )
    text = strict_yaml.load((hub / "search.yaml").read_text()).data
    by_hand = {"tuned": "org/tuned", "lora1": {"path": "base", "adapter": "org/lora1"}}
    text["experts"] = {**text["experts"], **by_hand, "tuned-2": f"org/tuned@{COMMIT}"}
    (hub / "by_hand.yaml").write_text(strict_yaml.dump(text))
    config = load_config(hub / "by_hand.yaml")
    assert config.recipe() == recipe
    config.write(hub / "kept.yaml")
    assert load_config(hub / "kept.yaml").recipe() == recipe


def test_a_name_that_the_hub_does_not_give_is_named_with_its_place(hub: Path) -> None:
    (hub / "words.jsonl").write_text('{"text": "a b c"}\n' * 3)
    text = "base: base\nexperts:\n  EXPERTS\ntasks: {w: {evaluator: perplexity, file: words.jsonl}}\nstudy: s\n"
    for experts, place in (
        ("{a: org/tuned,\n   b: org/none}", "4: experts.b"),
        ("[org/tuned,\n  org/none]", "4: experts.1"),
        ("{a: {path: base, adapter: org/none}}", "3: experts.a"),
    ):
        (hub / "search.yaml").write_text(text.replace("EXPERTS", experts))
        refused = run("check", "search.yaml")
        assert refused.exit_code == 3
        assert f"search.yaml:{place}: 'org/none' is not a local path, and the Hugging Face hub" in refused.output
    with pytest.raises(ModelNotFound) as error:
        Checkpoint.open("org/none")
    again = pickle.loads(pickle.dumps(error.value))  # as Ray brings it from a worker
    assert (str(again), again.name) == (str(error.value), "org/none")


def test_commands_take_names_of_the_hub(hub: Path) -> None:
    for number, named in enumerate(("org/tuned", f"org/tuned@{COMMIT}")):
        done = run("align", named, "--to", "base", "-o", f"out{number}", "--json")
        assert done.exit_code == 0, done.output
        said: dict[str, Any] = json.loads(done.output)
        assert (said["aligned"], said["to"]) == ("org/tuned", "base")
    refused = run("align", "org/tuned@v9", "--to", "base", "-o", "out9")
    assert (refused.exit_code, "'org/tuned' is not a local path" in refused.output) == (3, True)


def test_files_name_models_without_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "alice"
    monkeypatch.setenv("HOME", str(home))
    base = str(home / "models" / "base")
    assert relative_path(base, home / "out" / "merged") == "../../models/base"
    assert relative_path(base, tmp_path / "out") == relative_path(base, None) == "~/models/base"
    assert relative_path(str(tmp_path / "models" / "base"), tmp_path / "out") == "../models/base"
    given = Input("a", base, adapter=base + "/lora", statistics=base + "/s")
    assert portable(given, home) == Input("a", "models/base", None, "models/base/lora", "models/base/s")
    snapshot = f"{home}/hub/models--org--a/snapshots/{COMMIT}"
    assert portable(Input("a", snapshot, adapter=snapshot), home) == Input(
        "a", "org/a", COMMIT, "org/a", adapter_revision=COMMIT
    )


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("some/a+b", Input("x", "some/a+b")),
        ("org/a+org/b@v2", Input("x", "org/a", "main", "org/b", adapter_revision="v2")),
        ("./org/a", Input("x", "./org/a")),
        ("/org/a", Input("x", "/org/a")),
        ("a", Input("x", "a")),
    ],
)
def test_what_a_text_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, model: Input) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "a+b").mkdir(parents=True)
    assert named_input("x", text) == model
