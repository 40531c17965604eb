import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.merging.factors import Factors
from evomerge.merging.models.checkpoint import CheckpointError
from evomerge.merging.output.lora_approximation import approximate
from evomerge.merging.output.lora_export import export_lora
from evomerge.merging.output.materialize import materialize
from evomerge.merging.output.staging import OutputError
from evomerge.merging.prepared import MergeError
from evomerge.recipe import Input, Merge, Recipe, Slice
from evomerge.recipe.file import write_merge
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.adapters import combined_by_peft, lora
from tests.evomerge.merging.folders import bare, llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def recipe_of(base: Path, models: Sequence[Path], weight: Sequence[float], method: str = "task_arithmetic") -> Merge:
    inputs = tuple(Input(model.name, str(model)) for model in models)
    table = CoefficientTable({"all": ("*",)}, {"weight": np.array([weight], dtype=float)})
    return Merge(Recipe(Input("base", str(base)), inputs, method), table)


def loaded_by_peft(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that PEFT makes of an adapter; any warning of its own is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        model = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        return dict(model.merge_and_unload().state_dict())


def merged(merge: Merge, folder: Path) -> Mapping[str, torch.Tensor]:
    materialize(merge, folder)
    return load_file(folder / "model.safetensors")


def test_adapters_on_the_base_are_recompressed_exactly(tmp_path: Path) -> None:
    """Ranks 2 and 3 need 5; the result is PEFT's own `cat`, to float32's rounding."""
    base = llama(tmp_path / "base")
    models = [lora(tmp_path / "a", base, 1, r=2, target_modules=ALL), lora(tmp_path / "b", base, 2, r=3)]
    report = export_lora(recipe_of(base, models, (0.7, -0.4)), tmp_path / "out", 5)
    assert report.error < 1e-6
    assert (len(report.layers), report.left_out, report.missing) == (14, {}, report.error)
    expected = combined_by_peft(base, models, (0.7, -0.4), combination_type="cat")
    found = loaded_by_peft(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (5, 5, sorted(ALL))


def test_a_smaller_rank_is_the_svd_of_peft_and_the_error_is_true(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    models = [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2)]
    merge = recipe_of(base, models, (0.7, 0.4))
    report = export_lora(merge, tmp_path / "out", 3)
    expected = combined_by_peft(base, models, (0.7, 0.4), combination_type="svd", svd_rank=3)
    found, whole, plain = (
        loaded_by_peft(tmp_path / "out"),
        merged(merge, tmp_path / "whole"),
        load_file(base / "model.safetensors"),
    )
    squares = torch.zeros(2, dtype=torch.float64)
    for name, error in report.layers.items():
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
        lacks, change = ((whole[name] - x[name]).double().square().sum() for x in (found, plain))
        assert error == pytest.approx(float(lacks / change) ** 0.5, rel=1e-3)
        squares += torch.stack([lacks, change])
    assert report.error == pytest.approx(float(squares[0] / squares[1]) ** 0.5, rel=1e-3)
    assert 0.05 < report.error < 1
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("method", "options"), [("ties", {"compat": "peft"}), ("magnitude_prune", {})], ids=["ties", "magnitude_prune"]
)
@pytest.mark.parametrize("density", [1.0, 0.6])
def test_combinations_of_whole_changes_are_those_of_peft(
    tmp_path: Path, method: str, options: dict[str, Any], density: float
) -> None:
    """`ties_svd` and `magnitude_prune_svd`, cut off at rank 8 of the smaller side's 8 or 16."""
    base = llama(tmp_path / "base")
    models = [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2)]
    merge = recipe_of(base, models, (0.7, 0.4), method)
    table = CoefficientTable({"all": ("*",)}, {**merge.table.values, "density": np.array([[density]])})
    recipe = Recipe(merge.recipe.base, merge.recipe.inputs, method, options)
    export_lora(Merge(recipe, table), tmp_path / "out", 8)
    said = {"combination_type": f"{method}_svd", "svd_rank": 8, "density": density}
    expected = combined_by_peft(base, models, (0.7, 0.4), **said)
    for name, tensor in loaded_by_peft(tmp_path / "out").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=2e-6)


def test_full_models_as_a_lora_and_the_tensors_left_out(tmp_path: Path) -> None:
    base, models = llama(tmp_path / "base"), [llama(tmp_path / "a", 1), llama(tmp_path / "b", 2)]
    merge = recipe_of(base, models, (0.5, 0.25))
    report = export_lora(merge, tmp_path / "full", 16)
    # Sides of 16 need no more than rank 16. Norms are the same in untrained models; the embeddings are not.
    assert report.error < 1e-6
    assert set(report.left_out) == {"model.embed_tokens.weight"}
    assert report.text[-1] == "--modules-to-save would take in whole: model.embed_tokens."
    found, whole = loaded_by_peft(tmp_path / "full"), merged(merge, tmp_path / "whole")
    for name in report.layers:
        torch.testing.assert_close(found[name], whole[name], rtol=1e-5, atol=1e-6)
    plain = load_file(base / "model.safetensors")
    name = "model.embed_tokens.weight"
    change = torch.linalg.norm(whole[name] - plain[name])
    assert report.left_out[name] == pytest.approx(float(change / torch.linalg.norm(plain[name])), rel=1e-5)
    total = torch.cat([(whole[n] - plain[n]).flatten() for n in plain])
    assert report.missing == pytest.approx(float(change / torch.linalg.norm(total)), rel=1e-4)
    card = (tmp_path / "full" / "README.md").read_text()
    assert f"{name} (by {report.left_out[name]:.3%} of its size)" in card
    assert f"it lacks {report.missing:.3%} of the whole change" in card
    assert "base_model_relation" not in card
    assert "\nlibrary_name: peft\n" in card
    assert "`evomerge merge recipe.yaml -o DIR --lora 16`" in card


def test_modules_without_factors_may_go_in_whole(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", attention_bias=True)
    models = []
    for n in (1, 2):
        state = {name: t + 0.1 * n * torch.randn(t.shape) for name, t in load_file(base / "model.safetensors").items()}
        models.append(bare(tmp_path / str(n), state, json.loads((base / "config.json").read_text())))
    merge = recipe_of(base, models, (0.5, 0.25))
    report = export_lora(merge, tmp_path / "out", 16, modules_to_save=True)
    assert set(report.saved) == {
        "model.embed_tokens",
        "model.norm",
        *(f"model.layers.{n}.{norm}_layernorm" for n in (0, 1) for norm in ("input", "post_attention")),
    }
    assert all(name.endswith("_proj.bias") for name in report.left_out)
    assert len(report.left_out) == 8
    assert report.savable == ()
    found, whole = loaded_by_peft(tmp_path / "out"), merged(merge, tmp_path / "whole")
    for name, tensor in whole.items():
        if name not in report.left_out:
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def gpt2(folder: Path, seed: int) -> Path:
    """Names without `transformer.` in front, as on the hub."""
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=24, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(folder / "model.safetensors").items()}
    return bare(folder, tensors)


def test_projections_stored_with_a_row_per_input(tmp_path: Path) -> None:
    base, models = gpt2(tmp_path / "base", 0), [gpt2(tmp_path / "a", 1), gpt2(tmp_path / "b", 2)]
    merge = recipe_of(base, models, (0.5, 0.25))
    report = export_lora(merge, tmp_path / "out", 16)
    assert set(report.layers) == {
        f"h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert set(report.left_out) == {"wte.weight", "wpe.weight"}
    found, whole = loaded_by_peft(tmp_path / "out"), merged(merge, tmp_path / "whole")
    for name in report.layers:
        torch.testing.assert_close(found[f"transformer.{name}"], whole[name], rtol=1e-5, atol=1e-6)


def test_a_base_in_the_home_folder_is_named_as_seen_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in a folder made to be shared shows the home folder, and PEFT still finds the base from there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    base = llama(tmp_path / "models" / "base")
    export_lora(recipe_of(base, [lora(tmp_path / "models" / "a", base)], (0.5,)), Path("out"), 4)
    settings = json.loads(Path("out/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "../models/base"
    loaded_by_peft(Path("out"))
    texts = [file.read_text() for file in Path("out").iterdir() if file.suffix != ".safetensors"]
    assert not [text for text in texts if str(tmp_path) in text]
    assert (
        "names the base ../models/base, which PEFT looks for in its working folder" in Path("out/README.md").read_text()
    )


def test_only_some_layers_are_named_in_full(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    models = [lora(tmp_path / "a", base, target_modules=["layers.1.self_attn.q_proj"])]
    report = export_lora(recipe_of(base, models, (0.5,)), tmp_path / "out", 4)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    assert list(report.layers) == ["model.layers.1.self_attn.q_proj.weight"]
    assert report.error < 1e-6
    loaded_by_peft(tmp_path / "out")


def test_a_lora_of_a_low_precision_base_holds_the_unrounded_change(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", dtype=torch.bfloat16)
    model = lora(tmp_path / "a", base)
    merge = recipe_of(base, [model], (2**-7,))
    export_lora(merge, tmp_path / "out", 4)
    expected = combined_by_peft(base, [model], (2**-7,), combination_type="cat")
    for name, tensor in loaded_by_peft(tmp_path / "out").items():
        torch.testing.assert_close(tensor, expected[name].float(), rtol=0, atol=1e-7)


def test_the_same_bytes_again(tmp_path: Path) -> None:
    base, models = llama(tmp_path / "base"), [llama(tmp_path / "a", 1), llama(tmp_path / "b", 2)]
    merge = recipe_of(base, models, (0.5, 0.25))
    for folder, threads in (("one", 1), ("two", 2)):
        export_lora(merge, tmp_path / folder, 4, threads=threads)
    for name in ("adapter_model.safetensors", "adapter_config.json", "evomerge.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    manifest = json.loads((tmp_path / "one" / "evomerge.json").read_text())
    assert set(manifest["inputs"]) == {"base", "a", "b"}
    assert set(manifest["outputs"]) == {"adapter_model.safetensors"}
    assert manifest["lora"]["rank"] == 4


def test_the_export_is_an_input_again(tmp_path: Path) -> None:
    base, models = llama(tmp_path / "base"), [lora(tmp_path / "a", llama(tmp_path / "base"), 1)]
    export_lora(recipe_of(base, models, (1.0,)), tmp_path / "out", 4)
    again = merged(recipe_of(base, [tmp_path / "out"], (1.0,)), tmp_path / "again")
    for name, tensor in merged(recipe_of(base, models, (1.0,)), tmp_path / "whole").items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-6)


def test_refusals(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    model = lora(tmp_path / "a", base)
    merge = recipe_of(base, [model], (1.0,))
    with pytest.raises(ValueError, match="a positive integer; it is 0"):
        export_lora(merge, tmp_path / "out", 0)
    with pytest.raises(MergeError, match=r"rank of the LoRA is 500, .* more than 16 \(the smaller .*at most 16\."):
        export_lora(merge, tmp_path / "out", 500)
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="changes nothing that a LoRA can represent"):
        export_lora(recipe_of(base, [model], (0.0,)), tmp_path / "out", 2)
    slices = (Slice(1, ("base", 0), {"a": 0}),)
    recipe = Recipe(merge.recipe.base, merge.recipe.inputs, "task_arithmetic", slices=slices)
    with pytest.raises(CheckpointError, match="base is constructed"):
        export_lora(Merge(recipe, merge.table), tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()
    export_lora(merge, tmp_path / "out", 2)
    with pytest.raises(OutputError, match="exists"):
        export_lora(merge, tmp_path / "out", 2)
    export_lora(merge, tmp_path / "out", 3, overwrite=True)


def test_from_the_command_line(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    merge = recipe_of(base, [lora(tmp_path / "a", base, 1), lora(tmp_path / "b", base, 2)], (0.5, 0.5))
    write_merge(merge, tmp_path / "recipe.yaml")
    command = ["merge", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out"), "--lora", "8"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "A LoRA of rank 8 for 4 weights; it lacks 0.000% of their change." in done.stdout
    done = CliRunner().invoke(app, [*command, "--overwrite", "--json"])
    data: dict[str, Any] = json.loads(done.stdout)
    assert len(data["lora"]["layers"]) == 4
    assert CliRunner().invoke(app, [*command[:-1], "0"]).exit_code == 2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_product_of_stacked_factors_is_decomposed_without_the_noise() -> None:
    parts = [Factors(random(30, 2, seed=n), random(2, 20, seed=n + 5), 1.0) for n in (1, 2)]
    exact = parts[0].delta() - 0.5 * parts[1].delta()
    noisy = exact + 1e-4 * random(30, 20, seed=9)
    told = approximate(noisy, 4, parts, noise=1e-4 * 30)
    blind = approximate(noisy, 4, [], noise=0)
    right = [float(torch.linalg.norm(exact - found.left @ found.right)) for found in (told, blind)]
    assert right[0] < right[1]
    strange = approximate(random(30, 20, seed=11), 4, parts, noise=1e-4)
    plain = approximate(random(30, 20, seed=11), 4, [], noise=0)
    assert torch.equal(strange.left, plain.left)


def test_a_rank_above_what_is_needed_leaves_zeros() -> None:
    change = torch.outer(torch.arange(1.0, 5), torch.tensor([1.0, -1, 2]))
    found = approximate(change, 3, [], 0.0)
    assert (found.left.shape, found.right.shape) == ((4, 3), (3, 3))
    assert found.left[:, 1:].count_nonzero() == 0
    assert found.error < 1e-5
    torch.testing.assert_close(found.left @ found.right, change)


def test_tied_embeddings_do_not_go_in_whole(tmp_path: Path) -> None:
    """PEFT would take them apart: the output embeddings would stay the base's."""
    base, model = (llama(tmp_path / name, seed, tie_word_embeddings=True) for seed, name in enumerate(("base", "a")))
    report = export_lora(recipe_of(base, [model], (0.5,)), tmp_path / "out", 4, modules_to_save=True)
    assert set(report.left_out) == {"model.embed_tokens.weight"}
    assert report.saved == ()
