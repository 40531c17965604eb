import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from evaluators import _strict_yaml as strict_yaml
from evomerge.merging.method import MethodError
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.output.materialize import materialize, write_folder
from evomerge.merging.output.staging import OutputError
from evomerge.merging.output.writer import WriteError
from evomerge.merging.prepared import MergeError
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe.file import read_merge
from search_spaces.base import CoefficientTable, SpaceError
from tests.contracts.other_process import OtherProcess
from tests.evomerge.forks import Fork
from tests.evomerge.merging.folders import bare, cached, change_config, llama, tokenizer

SCORES = {"winner": {"add": 0.75, "sort": "0.61 ± 0.02"}, "base": {"add": 0.5}}


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    """Task arithmetic of two experts, other coefficients in each block."""
    base = tokenizer(llama(tmp_path / "base"), chat_template="{{ messages }}")
    llama(tmp_path / "add", 1, torch.bfloat16)
    tokenizer(llama(tmp_path / "sort", 2, shard="4KB"), "abd")
    (base / "generation_config.json").write_text('{"max_length": 7}')
    layout = Checkpoint.open(base).layout()
    groups: dict[str, tuple[str, ...]] = {}
    for name, block in zip(layout.names, layout.blocks, strict=True):
        groups[f"block.{block}"] = (*groups.get(f"block.{block}", ()), name)
    table = CoefficientTable(groups, {"weight": np.array([[0.25, 0.5], [1.0, -0.5], [0.125, 0.75]])})
    inputs = (Input("add", str(tmp_path / "add")), Input("sort", str(tmp_path / "sort")))
    return Merge(Recipe(Input("base", str(base)), inputs, "task_arithmetic"), table, seed=3)


def expected(merge: Merge) -> Mapping[str, torch.Tensor]:
    """The merge, computed plainly in float64."""
    sources = open_models(merge.recipe)
    base = sources.base
    result = {}
    for name in base.names:
        start = base.tensor(name).double()
        weights = merge.table.at(name)["weight"]
        deltas = [sources.inputs[model.name].tensor(name).double() - start for model in merge.recipe.inputs]
        result[name] = start + sum(w * delta for w, delta in zip(weights, deltas, strict=True))
    return result


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_transformers_loads_what_was_merged(tmp_path: Path, merge: Merge) -> None:
    materialize(merge, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    state = model.state_dict()
    for name, tensor in expected(merge).items():
        torch.testing.assert_close(state[name].double(), tensor, atol=1e-6, rtol=1e-6)
    assert model.generation_config.max_length == 7
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.chat_template == "{{ messages }}"
    assert loaded.eos_token == "<eos>"


def test_the_folder_contains_all_files(tmp_path: Path, merge: Merge) -> None:
    manifest = materialize(merge, tmp_path / "out", scores=SCORES)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "evomerge.json",
        "generation_config.json",
        "mergekit_config.yml",
        "model.safetensors",
        "recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    written = json.loads((tmp_path / "out" / "evomerge.json").read_text())
    assert written["outputs"] == {"model.safetensors": hashes(tmp_path / "out")["model.safetensors"]}
    assert written["inputs"]["sort"] == {
        "source": "sort",
        "revision": None,
        "sha256": {n: h for n, h in hashes(tmp_path / "sort").items() if n.endswith(".safetensors")},
    }
    assert written["seed"] == 3
    assert written["scores"] == SCORES
    assert written["recipe"] == manifest.recipe == merge.recipe.fingerprint
    assert read_merge(tmp_path / "out" / "recipe.yaml") == merge
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "base" / "config.json").read_bytes()


def test_the_card(tmp_path: Path, merge: Merge) -> None:
    materialize(merge, tmp_path / "merged-model", scores=SCORES)
    _, front, body = (tmp_path / "merged-model" / "README.md").read_text().split("---\n", 2)
    assert strict_yaml.load(front).data == {"tags": ["merge", "mergekit", "evomerge"]}, "the hub refuses local names"
    assert "\n# base_model: the models below were local folders" in f"\n{front}"
    assert "# merged-model" in body
    assert "| winner | 0.75 | 0.61 ± 0.02 |" in body
    assert "| base | 0.5 |  |" in body
    assert "| block.0 | weight | 1 | -0.5 |" in body
    assert "licen" not in body.lower()


@pytest.mark.fault("F42", "a model is exported", "card and manifest contain no path")
def test_card_and_manifest_name_no_place_of_this_machine(tmp_path: Path, merge: Merge) -> None:
    materialize(merge, tmp_path / "out")
    for name in ("README.md", "evomerge.json", "recipe.yaml", "mergekit_config.yml"):
        text = (tmp_path / "out" / name).read_text()
        assert str(tmp_path) not in text
        assert os.uname().nodename not in text


def test_a_model_of_the_hub_is_pinned_to_its_commit(
    tmp_path: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    commit = cached(tmp_path / "hub", "some/model", tmp_path / "base")
    recipe = replace(merge.recipe, base=Input("base", "some/model"))
    manifest = materialize(replace(merge, recipe=recipe), tmp_path / "out")
    assert {k: manifest.inputs["base"][k] for k in ("source", "revision")} == {
        "source": "some/model",
        "revision": commit,
    }
    assert read_merge(tmp_path / "out" / "recipe.yaml").recipe.base == Input("base", "some/model", commit)
    assert f"base_model: some/model@{commit}" in (tmp_path / "out" / "mergekit_config.yml").read_text()
    assert "base_model: [some/model]\nbase_model_relation: merge\n" in (tmp_path / "out" / "README.md").read_text()


def test_long_coefficient_tables_stay_out_of_the_card(
    tmp_path: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.merging.output.card.MAX_ROWS", 62)
    names = Checkpoint.open(merge.recipe.base.path).names
    groups = {f"g{n}": (name,) for n, name in enumerate(names)}
    values = np.linspace(0.5, 1.0, 2 * len(names)).reshape(-1, 2)
    table = CoefficientTable(groups, {"weight": values, "scale": values[:, :1], "density": values})
    recipe = replace(merge.recipe, method="ties")
    materialize(Merge(recipe, table), tmp_path / "out")
    assert f"{3 * len(names)} rows of coefficients" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_type_of_the_output(tmp_path: Path, merge: Merge, dtype: str) -> None:
    change_config(tmp_path / "base", torch_dtype="float32", text_config={"dtype": "float32"}, labels={"dtype": "x"})
    merge = Merge(replace(merge.recipe, dtype=dtype), merge.table)
    materialize(merge, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["torch_dtype"], config["text_config"]["dtype"], config["labels"]) == (dtype, dtype, {"dtype": "x"})
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in expected(merge).items():
        assert found[name].dtype == getattr(torch, dtype)
        torch.testing.assert_close(found[name].float(), tensor.to(found[name].dtype).float(), atol=1e-3, rtol=1e-2)


def test_a_type_is_added_to_a_config_without_one(tmp_path: Path, merge: Merge) -> None:
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "dtype"}))
    materialize(Merge(replace(merge.recipe, dtype="bfloat16"), merge.table), tmp_path / "out")
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_the_tokenizer_of_an_input(tmp_path: Path, merge: Merge) -> None:
    materialize(Merge(replace(merge.recipe, tokenizer="sort"), merge.table), tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "sort" / name).read_bytes()


def materialize_again(recipe: str, out: str) -> str:
    """Materialize a recipe file; the number of weight files."""
    return str(len(materialize(read_merge(Path(recipe)), Path(out), max_shard_bytes=6000, threads=2).outputs))


def test_same_shards_from_the_recipe_in_another_process(
    tmp_path: Path, merge: Merge, other_process: OtherProcess
) -> None:
    recipe = replace(merge.recipe, method="dare_ties", dtype="bfloat16")
    manifest = materialize(Merge(recipe, merge.table, 5), tmp_path / "out", max_shard_bytes=6000)
    assert len(manifest.outputs) > 1
    again = other_process.call(materialize_again, tmp_path / "out" / "recipe.yaml", tmp_path / "again")
    assert int(again) == len(manifest.outputs)
    first, second = hashes(tmp_path / "out"), hashes(tmp_path / "again")
    assert {name: first[name] for name in manifest.outputs} == {name: second[name] for name in manifest.outputs}
    assert second["model.safetensors.index.json"] == first["model.safetensors.index.json"]


def test_bare_weights_give_bare_weights(tmp_path: Path) -> None:
    base = bare(tmp_path / "a", {"w": torch.zeros(3), "ids": torch.arange(2)}) / "model.safetensors"
    other = bare(tmp_path / "b", {"w": torch.full((3,), 2.0), "ids": torch.arange(5, 7)}) / "model.safetensors"
    recipe = Recipe(Input("base", str(base)), (Input("b", str(other)),), "task_arithmetic")
    materialize(Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.5]])})), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["w"].tolist() == [1, 1, 1]
    assert found["ids"].tolist() == [0, 1], "integers are the base's"
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.fault("F44", "exports under several umasks", "modes follow it")
def test_files_follow_the_umask(tmp_path: Path, merge: Merge) -> None:
    (tmp_path / "base" / "tokenizer.json").chmod(0o600)
    before = os.umask(0o027)
    try:
        materialize(merge, tmp_path / "out", max_shard_bytes=6000)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o640}


def test_overwrites_an_export_only_on_demand(tmp_path: Path, merge: Merge) -> None:
    out = tmp_path / "out"
    materialize(merge, out, max_shard_bytes=6000)
    before = hashes(out)
    with pytest.raises(OutputError, match="exists"):
        materialize(merge, out)
    assert hashes(out) == before
    materialize(merge, out, overwrite=True)
    assert "model.safetensors" in hashes(out)
    assert "model.safetensors.index.json" not in hashes(out), "nothing of the old export stays"


def test_an_input_is_never_the_output(tmp_path: Path, merge: Merge) -> None:
    before = hashes(tmp_path / "sort")
    with pytest.raises(CheckpointError, match="is, contains or is inside the input"):
        materialize(merge, tmp_path / "sort", overwrite=True)
    assert hashes(tmp_path / "sort") == before


@pytest.mark.fault("F14", "an input has NaN weights", "refused with the tensor, nothing written")
def test_nan_weights_are_refused(tmp_path: Path, merge: Merge) -> None:
    tensors = load_file(tmp_path / "add" / "model.safetensors")
    tensors["model.norm.weight"][2] = float("nan")
    save_file(tensors, tmp_path / "add" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"add \(.*\): 'model.norm.weight' holds 1 NaN or infinite"):
        materialize(merge, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_incompatible_models_are_refused(tmp_path: Path, merge: Merge) -> None:
    llama(tmp_path / "add", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="Another depth"):
        materialize(merge, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"options": {"sharpness": 3}}, MethodError),
        ({"dtype": "int8"}, WriteError),
        ({"dtype": "float99"}, WriteError),
        ({"method": "slerp"}, MethodError),
    ],
)
def test_a_recipe_that_cannot_be_made(
    tmp_path: Path, merge: Merge, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        materialize(Merge(replace(merge.recipe, **changes), merge.table), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["add", "base", "sort"]


def test_coefficients_must_be_for_these_tensors(tmp_path: Path, merge: Merge) -> None:
    table = CoefficientTable({"all": ("model.norm.weight",)}, {"weight": np.ones((1, 2))})
    with pytest.raises(SpaceError, match="No coefficient group matches"):
        materialize(Merge(merge.recipe, table), tmp_path / "out")


def test_a_method_that_mergekit_lacks_gives_no_mergekit_file(tmp_path: Path, merge: Merge) -> None:
    recipe = replace(merge.recipe, method="ties", options={"compat": "peft"})
    materialize(Merge(recipe, merge.table), tmp_path / "out")
    assert not (tmp_path / "out" / "mergekit_config.yml").exists()
    said = (tmp_path / "out" / "recipe.yaml").read_text().splitlines()[0]
    assert said == "# There is no mergekit_config.yml: mergekit's ties cannot express compat: 'peft'."
    assert read_merge(tmp_path / "out" / "recipe.yaml").recipe.options == {"compat": "peft"}


def stand_in(merge: Merge, stop: int | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    base = Checkpoint.open(merge.recipe.base.path)
    for number, name in enumerate(base.names):
        if number == stop:
            raise RuntimeError("interrupted")
        yield name, base.tensor(name)


def test_a_failure_leaves_nothing(tmp_path: Path, merge: Merge) -> None:
    with pytest.raises(RuntimeError, match="interrupted"):
        write_folder(merge, open_models(merge.recipe), stand_in(merge, 5), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["add", "base", "sort"]


def test_weights_that_change_on_the_way_to_the_disk_are_noticed(
    tmp_path: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty_disk(descriptor: int) -> None:
        os.pwrite(descriptor, b"\x01", os.fstat(descriptor).st_size - 5)

    monkeypatch.setattr(os, "fsync", faulty_disk)
    with pytest.raises(WriteError, match="was read back differently"):
        write_folder(merge, open_models(merge.recipe), stand_in(merge), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_nothing(tmp_path: Path, merge: Merge) -> None:
    def progress(_done: int, _total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        materialize(merge, tmp_path / "out", progress=progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["add", "base", "sort"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("writing", "hashing"))]


def test_progress(tmp_path: Path, merge: Merge) -> None:
    seen: list[tuple[int, int]] = []
    materialize(merge, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    base = Checkpoint.open(merge.recipe.base.path)
    assert len(seen) == len(base.names)
    assert seen[-1] == (base.nbytes, base.nbytes)


def materialize_killed() -> None:
    """Materialize the recipe file into the folder that `sys.argv` names; the process is killed on the way."""

    def progress(done: int, total: int) -> None:
        if done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    _, recipe, out = sys.argv
    materialize(read_merge(Path(recipe)), Path(out), progress=progress, overwrite=True)


@pytest.mark.fault("F5", "an export is killed at several moments", "the target is absent or as it was")
def test_a_killed_export_leaves_the_target_absent_or_as_it_was(tmp_path: Path, merge: Merge) -> None:
    materialize(merge, tmp_path / "out")
    before = hashes(tmp_path / "out")
    for name in ("out", "new"):
        with Fork(tmp_path / "out" / "recipe.yaml", tmp_path / name, call=f"{__name__}:materialize_killed") as process:
            assert process.wait() == -signal.SIGKILL
    assert hashes(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()
    assert len(list(tmp_path.glob(".*"))) == 2, "the test must see leftovers"
    for name in ("out", "new"):
        materialize(merge, tmp_path / name, overwrite=True)
        assert hashes(tmp_path / name)["model.safetensors"] == before["model.safetensors"]
    assert list(tmp_path.glob(".*")) == []


def test_a_misspelt_word_is_told_before_any_model_is_looked_for(tmp_path: Path) -> None:
    nowhere = Recipe(Input("base", "/nowhere"), (Input("add", "/nowhere/else"),), "ties")
    everything: Mapping[str, tuple[str, ...]] = {"all": ("*",)}
    with pytest.raises(MethodError, match="no parameter 'wieght'"):
        materialize(Merge(nowhere, CoefficientTable(everything, {"wieght": np.ones((1, 1))})), tmp_path / "out")
    recipe = replace(nowhere, options={"normalise": True})
    with pytest.raises(MethodError, match="no option 'normalise'"):
        materialize(Merge(recipe, CoefficientTable(everything, {})), tmp_path / "out")


def test_missing_statistics_are_told_before_any_weights_are_read(tmp_path: Path) -> None:
    for name in ("base", "add"):
        model = bare(tmp_path / name, {"w": torch.full((3,), float("nan"))})
        assert model.is_dir()
    recipe = Recipe(Input("base", str(tmp_path / "base")), (Input("add", str(tmp_path / "add")),), "fisher")
    with pytest.raises(MergeError, match="needs the statistics 'fisher'"):
        materialize(Merge(recipe, CoefficientTable({"all": ("*",)}, {})), tmp_path / "out")
