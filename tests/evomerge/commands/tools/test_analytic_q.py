"""`evomerge tools analytic-q`, then `evomerge merge`, on the tiny trained models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.errors import USAGE
from evomerge.merging.methods.darex_q import analytic_q
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.prepare.calibration.data import encode_texts, read_texts
from evomerge.recipe.file import read_merge
from tests.conftest import TinyModels


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def found(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    file = tmp_path_factory.mktemp("q") / "recipe.yaml"
    data = ("--data", tiny.tasks["sort"], "--examples", 20, "--batch-tokens", 64)
    done = run("tools", "analytic-q", tiny.base, tiny.experts["sort"], *data, "--density", 0.2, "-o", file, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), file


def test_the_factors_are_those_of_the_mean_inputs(tiny: TinyModels, found: tuple[dict[str, Any], Path]) -> None:
    facts, _ = found
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny.experts["sort"], dtype=torch.float32)
    base, expert = (Checkpoint.open(folder) for folder in (tiny.base, tiny.experts["sort"]))
    name = next(name for name in facts["q"] if name.endswith("down_proj.weight"))
    seen: list[torch.Tensor] = []
    network.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
        lambda _, given: seen.append(given[0].reshape(-1, given[0].shape[-1]).double())
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.experts["sort"])
    with torch.no_grad():
        for example in encode_texts(read_texts(tiny.tasks["sort"]), tokenizer, 512, 20):
            network(torch.tensor([example.tokens[:-1]]))
    delta = expert.tensor(name).double() - base.tensor(name).double()
    expected = analytic_q((delta * torch.cat(seen).mean(dim=0)).numpy(), 0.2).mean()
    assert facts["q"][name] == pytest.approx(expected, rel=1e-4)
    assert not any("lm_head" in layer or "norm" in layer for layer in facts["q"])


def test_the_recipe_has_them_and_merges(found: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    facts, file = found
    merge = read_merge(file)
    assert merge.recipe.method == "darex_q"
    assert (merge.table.values["density"] == 0.2).all()
    rows = {
        name: 1.0 / value for name, (value,) in zip(merge.table.groups, merge.table.values["inverse_q"], strict=True)
    }
    for name, q in rows.items():
        assert q == pytest.approx(facts["q"].get(name, np.mean(list(facts["q"].values()))), rel=1e-6)
    assert run("merge", file, "-o", tmp_path / "out").exit_code == 0


def test_what_leaves_nothing_to_compute_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    data = ("--data", tiny.tasks["sort"], "--examples", 4, "-o", tmp_path / "recipe.yaml")
    done = run("tools", "analytic-q", tiny.base, tiny.base, *data)
    assert done.exit_code != 0
    assert "No linear layer of the model differs" in done.output
    for option, value in (("--density", 1.0), ("--eta", 0.0)):
        done = run("tools", "analytic-q", tiny.base, tiny.experts["sort"], *data, option, value)
        assert done.exit_code == USAGE
        assert "expected a share between 0 and 1" in " ".join(done.output.split())
    assert not (tmp_path / "recipe.yaml").exists()
