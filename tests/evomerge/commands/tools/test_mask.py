"""`evomerge tools mask`, then `evomerge merge` and a search, on the tiny trained models."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.recipe.file import read_merge
from tests.conftest import TinyModels


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def merged(recipe: Path, folder: Path) -> dict[str, torch.Tensor]:
    done = run("merge", recipe, "-o", folder)
    assert done.exit_code == 0, done.output
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.tensor(name).float() for name in checkpoint.names}


def test_a_graft_is_written_and_merged(tiny: TinyModels, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    data = ("--data", tiny.tasks["sort"], "--examples", 12, "--density", 0.05, "--steps", 3, "--lr", 1e9)
    done = run("tools", "mask", tiny.base, tiny.experts["sort"], *data, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)["models"]["sort"]
    assert facts["loss"] == min(facts["losses"]) <= facts["losses"][0]
    assert len(facts["losses"]) == 4
    masks = load_file(out / "sort.safetensors")
    assert {mask.dtype for mask in masks.values()} == {torch.bool}
    merge = read_merge(out / "recipe.yaml")
    assert (merge.recipe.method, merge.table.values["weight"].tolist()) == ("masked", [[1.0]])
    found = merged(out / "recipe.yaml", tmp_path / "merged")
    base, expert = (Checkpoint.open(folder) for folder in (tiny.base, tiny.experts["sort"]))
    kept = 0
    for name, tensor in found.items():
        mask, before = masks[f"mask/{name}"], base.tensor(name).float()
        torch.testing.assert_close(tensor, torch.where(mask, expert.tensor(name).float(), before), atol=1e-6, rtol=1e-5)
        kept += int(mask.count_nonzero())
    assert 0 < facts["kept"] <= kept < 0.3 * facts["elements"], "tied tensors are counted once"
    again = run("tools", "mask", tiny.base, tiny.experts["sort"], *data, "-o", out)
    assert again.exit_code == 2
    assert "Choose another folder, or replace its files (--overwrite)" in str(again.exception) + again.output


def test_one_concrete_mask_for_several_models(tiny: TinyModels, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    data = [each for name in ("largest", "sort") for each in ("--data", f"{name}={tiny.tasks[name]}")]
    options = ("--kind", "concrete", "--examples", 12, "--steps", 3, "--loss", "entropy", "--weight", 0.4, "--json")
    done = run(
        "tools", "mask", tiny.base, *(tiny.experts[name] for name in ("largest", "sort")), *data, *options, "-o", out
    )
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert set(facts["loss"]) == set(facts["loss_without"]) == {"largest", "sort"}
    first, second = (load_file(out / f"{name}.safetensors") for name in ("largest", "sort"))
    assert all(torch.equal(mask, second[name]) for name, mask in first.items())
    assert all(float(mask.mean()) == pytest.approx(1.0, abs=1e-4) for mask in first.values())
    assert read_merge(out / "recipe.yaml").table.values["weight"].tolist() == [[0.4, 0.4]]
    assert merged(out / "recipe.yaml", tmp_path / "merged")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kind", "grafts"), "--kind is 'grafts'; expected graft or concrete"),
        (("--weight", "0.3"), "--weight is no option of --kind graft"),
        (("--kind", "concrete", "--density", "0.3"), "--density is no option of --kind concrete"),
        (("--loss", "entropy"), "Grafts are learned from labels"),
        (("--density", "0"), "expected a share in (0, 1]"),
        (("--batch", "0"), "expected at least 1"),
        (("--kind", "concrete", "--loss", "nll"), "expected labels or entropy"),
        (("--data", "other=x"), "expected NAME=FILE once for each"),
    ],
)
def test_mistakes_are_refused_before_a_model_is_read(
    tiny: TinyModels, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = run(
        "tools", "mask", tiny.base, tiny.experts["sort"], "--data", "sort=nowhere", "-o", tmp_path / "x", *options
    )
    assert done.exit_code == 2
    assert said in str(done.exception) + done.output
