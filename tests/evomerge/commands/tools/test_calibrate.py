"""`evomerge tools calibrate`, then `evomerge merge`: on the tiny trained models, against what is computed directly."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.merging.models.checkpoint import Checkpoint
from tests.conftest import TinyModels
from tests.evomerge.merging.adapters import lora, merged_by_peft

TASKS = ("count", "sort")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def collected(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of two experts, each on its own task."""
    folder = tmp_path_factory.mktemp("collected")
    for task in TASKS:
        file = folder / f"{task}.safetensors"
        done = run(
            "tools", "calibrate", tiny.experts[task], "--data", tiny.tasks[task], "-o", file, "--examples", 20, "--json"
        )
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["examples"] == 20
    return folder


def recipe(tiny: TinyModels, folder: Path, statistics: Path | None, **changes: Any) -> Path:
    inputs = {
        task: {"path": str(tiny.experts[task])}
        | ({} if statistics is None else {"statistics": str(statistics / f"{task}.safetensors")})
        for task in TASKS
    }
    file = folder / "recipe.yaml"
    text = strict_yaml.dump({"evomerge": 1, "base": str(tiny.base), "inputs": inputs, "dtype": "float32", **changes})
    file.write_text(text)
    return file


def merged(tiny: TinyModels, folder: Path, statistics: Path, **changes: Any) -> dict[str, Tensor]:
    done = run("merge", recipe(tiny, folder, statistics, **changes), "-o", folder / "out")
    assert done.exit_code == 0, done.output
    return load_file(folder / "out" / "model.safetensors")


def experts(tiny: TinyModels) -> list[Checkpoint]:
    return [Checkpoint.open(tiny.experts[task]) for task in TASKS]


def test_fisher_from_data_to_weights(tiny: TinyModels, collected: Path, tmp_path: Path) -> None:
    result = merged(tiny, tmp_path, collected, method="fisher", coefficients={"weight": [0.3, 0.6]})
    moments = [load_file(collected / f"{task}.safetensors") for task in TASKS]
    norms = [
        sum(float(m.double().square().sum()) for name, m in found.items() if name.startswith("fisher/")) ** 0.5
        for found in moments
    ]
    for name, tensor in result.items():
        shares = [
            w / norm * found[f"fisher/{name}"].double().clamp_min(1e-6)
            for w, norm, found in zip((0.3, 0.6), norms, moments, strict=True)
        ]
        expected = sum(s * e.tensor(name).double() for s, e in zip(shares, experts(tiny), strict=True)) / sum(shares)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)


def test_regmean_from_data_to_weights(tiny: TinyModels, collected: Path, tmp_path: Path) -> None:
    values = {"weight": [0.5, 1.0], "off_diagonal": 0.8}
    result = merged(tiny, tmp_path, collected, method="regmean", options={"ridge": 0.0}, coefficients=values)
    moments = [load_file(collected / f"{task}.safetensors") for task in TASKS]
    with_moments = 0
    for name, tensor in result.items():
        weights = [expert.tensor(name).double() for expert in experts(tiny)]
        if f"gram/{name}" in moments[0]:
            with_moments += 1
            grams = [found[f"gram/{name}"].double() for found in moments]
            grams = [w * (0.8 * g + 0.2 * torch.diag(g.diagonal())) for w, g in zip((0.5, 1.0), grams, strict=True)]
            right = sum(g @ w.T for g, w in zip(grams, weights, strict=True))
            expected = torch.linalg.solve(grams[0] + grams[1], right).T
        else:
            expected = weights[0] / 3 + weights[1] * 2 / 3
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-5)
    assert with_moments == 3 * 7 + 1  # the output embeddings are not tied


def test_through_writes_a_recipe_that_merges(tiny: TinyModels, tmp_path: Path) -> None:
    file = recipe(tiny, tmp_path, None, method="regmean")
    data = [part for task in TASKS for part in ("--data", f"{task}={tiny.tasks[task]}")]
    done = run("tools", "calibrate", "--through", file, *data, "--examples", 5, "-o", tmp_path / "moments", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["inputs"]["sort"]["examples"] == 5
    assert run("merge", tmp_path / "moments" / "recipe.yaml", "-o", tmp_path / "out").exit_code == 0
    again = run("tools", "calibrate", "--through", file, *data, "-o", tmp_path / "moments")
    assert (again.exit_code, "exists" in again.stderr) == (2, True)


def test_invalid_arguments_are_errors_before_loading(tiny: TinyModels, tmp_path: Path) -> None:
    model, data, output = tiny.experts["sort"], tiny.tasks["sort"], tmp_path / "s.safetensors"
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p"}\n')
    output.write_text("mine")
    for arguments, code, message in (
        ([model, "--data", data, "-o", output], 2, "contains weights and is never replaced"),
        (
            [model, "--data", data, "-o", tmp_path / "no" / "s"],
            2,
            f"needs an existing folder: create {tmp_path / 'no'}",
        ),
        ([model, "--data", tmp_path / "gone.txt", "-o", tmp_path / "x"], 2, "gone.txt does not exist"),
        ([model, "--data", tmp_path / "bad.jsonl", "-o", tmp_path / "x"], 2, "no field 'answer'"),
        ([tmp_path / "gone", "--data", data, "-o", tmp_path / "x"], 3, "does not exist"),
        ([model, "--data", data, "-o", tmp_path / "x", "--kinds", "hessian"], 2, "expected some of fisher"),
        ([model, "--data", data, "-o", tmp_path / "x", "--dtype", "int8"], 2, "dtype is 'int8'"),
        ([model, "--data", data, "-o", tmp_path / "x", "--length", "1"], 2, "length is 1"),
        (["--data", data, "-o", tmp_path / "x"], 2, "MODEL"),
        (["--through", tmp_path / "gone.yaml", "--data", data, "-o", tmp_path / "x"], 2, "expected NAME=FILE"),
    ):
        result = run("tools", "calibrate", *arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert message in result.stderr, (message, result.stderr)
        assert "Traceback" not in result.output
    assert output.read_text() == "mine"
    assert not (tmp_path / "x").exists()


def test_a_model_with_its_lora(tiny: TinyModels, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", tiny.base)
    transformers.AutoTokenizer.from_pretrained(tiny.base).save_pretrained(tmp_path / "whole")
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny.base)
    network.load_state_dict(merged_by_peft(tiny.base, adapter))
    network.save_pretrained(tmp_path / "whole")
    common = ("--data", tiny.tasks["count"], "--examples", 3, "--kinds", "gram")
    for name, arguments in {
        "a": (tiny.base, "--adapter", adapter),
        "b": (tmp_path / "whole",),
        "c": (tiny.base,),
    }.items():
        done = run("tools", "calibrate", *arguments, *common, "-o", tmp_path / f"{name}.safetensors")
        assert done.exit_code == 0, done.output
    with_adapter, whole, without = (load_file(tmp_path / f"{name}.safetensors") for name in "abc")
    for name, moment in whole.items():
        torch.testing.assert_close(with_adapter[name], moment, rtol=1e-4, atol=1e-5)
    inputs = {"a": {"path": str(tiny.base), "adapter": str(adapter), "statistics": str(tmp_path / "a.safetensors")}}
    for name, code in (("a", 0), ("c", 3)):
        inputs["a"]["statistics"] = str(tmp_path / f"{name}.safetensors")
        file = recipe(tiny, tmp_path, None, method="regmean", inputs=inputs)
        done = run("merge", file, "-o", tmp_path / "out", "--overwrite")
        assert (done.exit_code, f"--adapter {adapter}" in done.stderr) == (code, code == 3)
    last = "gram/model.layers.2.mlp.down_proj.weight"
    assert not torch.allclose(with_adapter[last], without[last], rtol=0.01)


def test_statistics_of_another_model_are_refused(tiny: TinyModels, collected: Path, tmp_path: Path) -> None:
    shutil.copyfile(collected / "sort.safetensors", tmp_path / "count.safetensors")
    shutil.copyfile(collected / "sort.safetensors", tmp_path / "sort.safetensors")
    done = run("merge", recipe(tiny, tmp_path, tmp_path, method="fisher"), "-o", tmp_path / "out")
    assert done.exit_code == 3, done.output
    assert f"another model than 'count' ({tiny.experts['count']}): on sort with" in done.stderr
    assert f"`evomerge tools calibrate {tiny.experts['count']} --data FILE -o" in done.stderr
    assert not (tmp_path / "out").exists()


def test_statistics_without_a_model_fingerprint_are_accepted_with_a_note(
    tiny: TinyModels, collected: Path, tmp_path: Path
) -> None:
    for task in TASKS:
        save_file(load_file(collected / f"{task}.safetensors"), tmp_path / f"{task}.safetensors")
    shutil.copyfile(collected / "sort.safetensors", tmp_path / "sort.safetensors")
    done = run("merge", recipe(tiny, tmp_path, tmp_path, method="fisher"), "-o", tmp_path / "out", "--json")
    [note] = json.loads(done.stdout)["notes"]
    assert note.startswith(f"the statistics of count ({tmp_path}/count.safetensors) do not name their model")


def test_a_copy_of_the_model_is_the_model(tiny: TinyModels, collected: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(tiny.experts["count"], copied)
    inputs = {"count": {"path": str(copied), "statistics": str(collected / "count.safetensors")}}
    assert (
        run(
            "merge", recipe(tiny, tmp_path, collected, method="fisher", inputs=inputs), "-o", tmp_path / "out"
        ).exit_code
        == 0
    )


def test_statistics_of_other_blocks_or_rows_are_refused(tiny: TinyModels, collected: Path, tmp_path: Path) -> None:
    slices = [{"blocks": 3, "inputs": dict.fromkeys(TASKS, 0)}]
    rows = {"tokenizer": "base", "vocabulary": {"multiple_of": 64}}
    for changes, message in (
        ({"method": "regmean", "slices": slices}, "blocks in other places"),
        ({"method": "fisher", **rows}, "rows of embeddings matched"),
    ):
        done = run("merge", recipe(tiny, tmp_path, collected, **changes), "-o", tmp_path / "out")
        assert (done.exit_code, message in done.stderr) == (3, True), done.output
    # Vocabularies that agree leave every row where it is.
    same = recipe(tiny, tmp_path, collected, method="fisher", tokenizer="base")
    assert run("merge", same, "-o", tmp_path / "out").exit_code == 0
