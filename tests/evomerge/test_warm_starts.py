"""Starts of a search from other studies: coefficients of a sibling with another number of blocks, by relative depth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.config import load_config
from evomerge.launch.plan import prepare
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe.file import write_merge
from search_spaces.base import CoefficientTable
from tests.toys import NAMES, search_file


def deeper(folder: Path, blocks: int) -> dict[str, str]:
    """A base and two experts with so many blocks, as single files."""
    folder.mkdir(parents=True)
    inner = [f"model.layers.{n}.{part}.weight" for n in range(blocks) for part in ("self_attn.q_proj", "mlp.up_proj")]
    names = [NAMES[0], *inner, NAMES[-1]]
    rng = np.random.default_rng(11)
    files = {}
    for model in ("base", "a", "b"):
        tensors = {name: torch.tensor(rng.normal(size=(4, 6)), dtype=torch.float32) for name in names}
        save_file(tensors, folder / f"{model}.safetensors")
        files[model] = str(folder / f"{model}.safetensors")
    return files


def recipe_of_three_blocks(folder: Path, experts: tuple[str, ...] = ("a", "b")) -> Path:
    """A recipe of the toys whose weights rise with depth."""
    recipe = Recipe(Input("base", "base"), tuple(Input(name, name) for name in experts), "task_arithmetic")
    depth = [0.0, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.9]
    weight = np.stack([depth, np.subtract(1.0, depth)], axis=1)
    file = folder / "small.yaml"
    write_merge(Merge(recipe, CoefficientTable({name: (name,) for name in NAMES}, {"weight": weight})), file)
    return file


def write(folder: Path, start: Path, blocks: int = 5) -> Path:
    files = deeper(folder / "deep", blocks)
    settings = search_file(folder, base=files["base"], experts={"a": files["a"], "b": files["b"]})
    settings["space"] = {"kind": "layerwise", "ranges": {"weight": [0, 1]}, "start": str(start)}
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings), encoding="utf-8")
    return file


@pytest.mark.parametrize("experts", [("a", "b"), ("b", "a")])
def test_a_search_starts_from_the_coefficients_of_a_sibling_with_fewer_blocks(
    tmp_path: Path, experts: tuple[str, ...]
) -> None:
    plan = prepare(load_config(write(tmp_path, recipe_of_three_blocks(tmp_path, experts))))
    start = next(trial for trial in plan.planned if trial.label == "start")
    table = plan.space.decode(start.x)
    column = experts.index("a")
    rows = [table.at(f"model.layers.{n}.mlp.up_proj.weight")["weight"] for n in range(5)]
    assert [row[column] for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert [row[1 - column] for row in rows] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert table.at("model.norm.weight")["weight"][column] == pytest.approx(0.9)


def test_a_start_of_other_experts_is_refused_with_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, recipe_of_three_blocks(tmp_path, ("a", "c")))
    done = CliRunner().invoke(app, ["check", str(file)])
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "search.yaml:" in said
    assert "its experts need the same names; they are a, c, and here a, b" in said
