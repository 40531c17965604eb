"""An export made again: equal bytes, edited files, changed models, another result; weights and LoRA."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from evomerge.commands.reproduce import reproduce
from evomerge.export.reproduce import ReproductionError
from evomerge.merging.output.lora_export import export_lora
from evomerge.merging.output.materialize import materialize
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe.file import read_merge
from search_spaces.base import CoefficientTable
from tests.toys import write_toys


def merge_of(folder: Path, method: str = "dare_linear") -> Merge:
    """A merge with keyed masks, of toys."""
    base, experts = write_toys(folder / "models")
    inputs = tuple(Input(name, str(path)) for name, path in experts.items())
    values = {"weight": np.array([[0.5, 0.7]]), "density": np.array([[0.6, 0.6]])}
    return Merge(Recipe(Input("base", str(base)), inputs, method), CoefficientTable({"all": ("*",)}, values), seed=5)


def again(folder: Path) -> tuple[dict[str, object], str]:
    data, lines = reproduce(folder, read_merge(folder / "recipe.yaml"))
    json.dumps(data)
    return data, "\n".join(lines)


def test_the_same_bytes_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    materialize(merge_of(tmp_path), tmp_path / "out")
    data, text = again(tmp_path / "out")
    assert data["equal"] is True
    assert "bit for bit as exported" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "out"]


def test_the_first_byte_of_a_changed_export(tmp_path: Path) -> None:
    materialize(merge_of(tmp_path), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    content[-1] ^= 1
    file.write_bytes(content)
    data, text = again(tmp_path / "out")
    assert (data["equal"], data["edited"]) == (False, ["model.safetensors"])
    assert "was changed after the export" in text
    assert f"first difference at byte {len(content) - 3:,}, in " in text
    assert "; 2 bytes differ" in text


@pytest.mark.parametrize("length", [0, 100, -1])
def test_an_export_that_was_cut_off(tmp_path: Path, length: int) -> None:
    materialize(merge_of(tmp_path), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    content = file.read_bytes()[:length]
    file.write_bytes(content)
    data, text = again(tmp_path / "out")
    assert (data["equal"], data["edited"]) == (False, ["model.safetensors"])
    assert f"first difference at byte {len(content):,}" in text
    assert "the files differ in length" in text


def test_another_result_names_the_versions(tmp_path: Path) -> None:
    materialize(merge_of(tmp_path), tmp_path / "out")
    recipe = tmp_path / "out" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 5", "seed: 6"))
    data, text = again(tmp_path / "out")
    assert (data["equal"], data["edited"]) == (False, [])
    assert "the merge gives other bytes" in text
    assert "exported with evomerge" in text


def test_a_model_that_has_changed_is_named(tmp_path: Path) -> None:
    materialize(merge_of(tmp_path), tmp_path / "out")
    file = tmp_path / "models" / "b.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ReproductionError, match=r"with these models: b/b\.safetensors changed since"):
        again(tmp_path / "out")


def test_a_lora_again(tmp_path: Path) -> None:
    export_lora(merge_of(tmp_path), tmp_path / "lora", 2, modules_to_save=True)
    data, text = again(tmp_path / "lora")
    assert data["equal"] is True, text


@pytest.mark.parametrize(("name", "why"), [("evomerge.json", "has no readable"), ("model.safetensors", "lacks model")])
def test_without_manifest_or_weights_there_is_nothing_to_compare(tmp_path: Path, name: str, why: str) -> None:
    materialize(merge_of(tmp_path), tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(ReproductionError, match=why):
        again(tmp_path / "out")


def test_a_folder_that_moved_finds_its_models_by_the_recipe(tmp_path: Path) -> None:
    materialize(merge_of(tmp_path), tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert again(tmp_path / "copy")[0]["equal"] is True
