import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.merging.models.checkpoint import Checkpoint
from tests.evomerge.merging.folders import change_config, tokenizer
from tests.evomerge.prepare.alignment.test_symmetries import MODELS, logits, random_model, same, shuffled, units_of


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tools", "align", *map(str, arguments)])


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A model and another that was trained apart from it."""
    kind, settings, _ = MODELS["llama"]
    other = tokenizer(random_model(kind, settings, tmp_path / "other", seed=5))
    return other, random_model(kind, settings, tmp_path / "base")


@pytest.mark.parametrize("flags", [[], ["--residual"]])
def test_the_outputs_stay_and_the_weights_come_nearer(
    tmp_path: Path, models: tuple[Path, Path], flags: list[str]
) -> None:
    other, base = models
    done = run(other, "--to", base, "-o", tmp_path / "out", "--json", *flags)
    assert done.exit_code == 0, done.output
    assert same(logits(tmp_path / "out"), logits(other))
    record = json.loads(done.stdout)
    written = json.loads((tmp_path / "out" / "evomerge.json").read_text())
    assert set(written.pop("files")) == {file.name for file in (tmp_path / "out").iterdir()}
    assert record == written
    assert record["cosine"][0] < record["cosine"][1]
    assert record["agreement"][0] < record["agreement"][1]
    assert (record["aligned"], record["to"]) == ("other", "base")
    written, wanted = load_file(tmp_path / "out" / "model.safetensors"), load_file(base / "model.safetensors")
    weights = {place.tensor for one in units_of(Checkpoint.open(base), residual=bool(flags)) for place in one.places}
    inner = sum(float((written[name].double() * wanted[name].double()).sum()) for name in weights)
    assert inner == pytest.approx(record["agreement"][1])
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "config.json").read_bytes() == (other / "config.json").read_bytes()


def test_a_model_in_another_order_comes_back_and_is_written_the_same_again(
    tmp_path: Path, models: tuple[Path, Path]
) -> None:
    base = Checkpoint.open(models[1])
    model = shuffled(base, units_of(base), tmp_path / "model")
    done = run(model, "--to", models[1], "-o", tmp_path / "out")
    assert "cosine of the weights" in done.stdout
    assert "-> 1.0000." in done.stdout
    written, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", models[1]))
    assert all(torch.equal(written[name], wanted[name]) for name in wanted)
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert run(model, "--to", models[1], "-o", tmp_path / "out").exit_code == 2
    assert run(model, "--to", models[1], "-o", tmp_path / "out", "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first


def test_models_that_cannot_be_aligned_are_refused(tmp_path: Path, models: tuple[Path, Path]) -> None:
    other, base = models
    small = random_model("Llama", {**MODELS["llama"][1], "intermediate_size": 12}, tmp_path / "small")
    assert (done := run(small, "--to", base, "-o", tmp_path / "out")).exit_code == 3
    assert "differ in shape" in done.stderr
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert (done := run(other, "--to", base, "-o", tmp_path / "out")).exit_code == 3
    assert "'model.norm.weight' holds 1 NaN or infinite values" in done.stderr
    strange = tmp_path / "strange.safetensors"
    save_file({"a.x": torch.ones(2, 2), "b.y": torch.ones(2)}, strange)
    assert (done := run(strange, "--to", strange, "-o", tmp_path / "out")).exit_code == 3
    assert "Found no hidden units to match" in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_a_configuration_of_its_heads_only_the_mlp_moves(tmp_path: Path, models: tuple[Path, Path]) -> None:
    other, base = models
    for folder in models:
        change_config(folder, num_attention_heads=None)
    record = json.loads(run(other, "--to", base, "-o", tmp_path / "out", "--json").stdout)
    assert (record["kinds"], record["units"]) == (2, 40)
