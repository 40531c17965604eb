"""A candidate as one stacked adapter changes the base as its merge does."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evomerge.merging.baselines import baselines, sums_deltas
from evomerge.merging.models.adapter import Adapted
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.prepared import MergeError
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.merging.stacked import StackedAdapters, rank_of, why_not_stacked
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.adapters import bare_lora, change_lora, lora
from tests.evomerge.merging.folders import bare, llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
#: Experts of several ranks and scales, on several modules.
EXPERTS: dict[str, dict[str, Any]] = {
    "a": {"target_modules": ALL},
    "b": {"target_modules": ["q_proj", "down_proj"], "r": 3, "use_rslora": True},
    "c": {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 5}, "alpha_pattern": {"v_proj": 11}},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    base = llama(tmp_path / "base", 0)
    experts = {name: lora(tmp_path / name, base, seed, **own) for seed, (name, own) in enumerate(EXPERTS.items())}
    return Recipe(Input("base", str(base)), tuple(Input(n, str(p)) for n, p in experts.items()), "task_arithmetic")


def stacked(models: RecipeModels) -> StackedAdapters:
    return StackedAdapters(models.engine(), models.base, models.inputs)


def by_layer(recipe: Recipe, models: RecipeModels, seed: int = 0, **values: Any) -> Merge:
    """A merge with weights of its own for each layer and for the rest."""
    names = models.base.layout().names
    groups = {str(n): tuple(name for name in names if f"layers.{n}." in name) for n in range(2)}
    rest = tuple(name for name in names if "layers" not in name)
    weights = np.random.default_rng(seed).uniform(-1, 1.5, (3, len(recipe.inputs)))
    return Merge(recipe, CoefficientTable({**groups, "rest": rest}, {"weight": weights, **values}))


def folded(models: RecipeModels, adapter: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The base with an adapter, as PEFT's folder of it is read."""
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / "adapter_model.safetensors")
    ranks = {name.removesuffix(".lora_A.weight"): len(t) for name, t in adapter.items() if "lora_A" in name}
    pattern = {name.removeprefix("base_model.model.").replace(".", r"\."): rank for name, rank in ranks.items()}
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    change_lora(folder, rank_pattern=pattern, alpha_pattern=pattern)
    model = Adapted(models.base, folder)
    return {name: model.tensor(name) for name in model.names}


def check_same(models: RecipeModels, merge: Merge, folder: Path) -> dict[str, torch.Tensor]:
    adapter = stacked(models).tensors(merge)
    found, expected = folded(models, adapter, folder), dict(models.engine().stream(merge))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")
    return adapter


def test_a_stack_is_the_merged_change(recipe: Recipe, tmp_path: Path) -> None:
    """Weights differ by layer and expert, and ranks by adapter and kind of matrix: 2 to 5."""
    models = open_models(recipe)
    adapter = check_same(models, by_layer(recipe, models), tmp_path / "stack")
    ranks = {name.removeprefix("base_model.model.model.layers."): len(t) for name, t in adapter.items() if "A" in name}
    assert ranks["0.self_attn.q_proj.lora_A.weight"] == 4 + 3 + 2
    assert ranks["1.self_attn.v_proj.lora_A.weight"] == 4 + 5
    assert ranks["1.mlp.up_proj.lora_A.weight"] == 4
    assert stacked(models).rank == rank_of(models.base, models.inputs) == 9
    other = stacked(models).tensors(by_layer(recipe, models, seed=1))
    assert all(torch.equal(adapter[name], other[name]) == ("lora_A" in name) for name in adapter)


def test_options_of_the_method_count(recipe: Recipe, tmp_path: Path) -> None:
    normalized = Recipe(recipe.base, recipe.inputs, "task_arithmetic", {"normalize": True})
    models = open_models(normalized)
    check_same(models, by_layer(normalized, models, scale=np.full((3, 1), 0.7)), tmp_path / "stack")


def test_parents_and_baselines_are_stacks(recipe: Recipe, tmp_path: Path) -> None:
    """Also the uniform average, whose method weighs whole models; the base is an adapter of zeros."""
    models = open_models(recipe)
    for number, (label, merge) in enumerate(baselines(recipe, models.base.layout().names)):
        adapter = check_same(models, merge, tmp_path / str(number))
        nothing = not any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
        assert nothing == (label == "base")


def test_other_merges_are_refused(recipe: Recipe) -> None:
    ties = Recipe(recipe.base, recipe.inputs, "ties")
    models = open_models(ties)
    with pytest.raises(MergeError, match="ties is no sum of the adapters' changes to the base"):
        stacked(models).tensors(by_layer(ties, models))


@pytest.mark.parametrize(
    ("method", "options", "sums"),
    [
        ("task_arithmetic", {}, True),
        ("task_arithmetic", {"normalize": True}, True),
        ("linear", {}, True),
        ("linear", {"normalize": False}, False),
        ("slerp", {}, False),
        ("ties", {}, False),
        ("dare_linear", {}, False),
        ("lora_linear", {}, False),
        ("wise_ft", {}, True),
    ],
)
def test_methods_that_sum_changes(method: str, options: dict[str, Any], *, sums: bool) -> None:
    """Decided on made-up models."""
    inputs = tuple(Input(name, name) for name in ("a", "b", "c")[: 1 if method in ("slerp", "wise_ft") else 3])
    recipe = Recipe(Input("base", "base"), inputs, method, options)
    name = "t" if method in ("slerp", "wise_ft") else "weight"
    values = np.array([[0.3]]) if name == "t" else np.array([[0.3, 0.9, 0.4]])
    merge = Merge(recipe, CoefficientTable({"all": ("x", "y")}, {name: values}))
    assert sums_deltas(merge, {"x": 2, "y": 1}) == sums


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, None),
        ({"use_dora": True}, r"b also scales the rows of model\.layers\.0\.self_attn\.q_proj\.weight \(DoRA\)"),
        ({"modules_to_save": ["norm"]}, r"b contains model\.\S+norm\.weight whole"),
        ({"bias": "lora_only"}, None),
    ],
)
def test_adapters_that_are_more_than_factors(tmp_path: Path, own: dict[str, Any], said: str | None) -> None:
    base = llama(tmp_path / "base", 0)
    folders = [lora(tmp_path / "a", base), lora(tmp_path / "b", base, 1, **own)]
    models = open_models(Recipe(Input("base", str(base)), tuple(Input(f.name, str(f)) for f in folders), "linear"))
    why = why_not_stacked(models.base, models.inputs)
    assert why is None if said is None else re.fullmatch(said, str(why)), why


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("layers.0.mlp.up", None),
        ("layers.0.mlp.experts.1.up", "an adapter changes layers.0.mlp.experts.1.up.weight, which is no linear layer"),
        ("lm_head", "an adapter changes lm_head.weight, which is no linear layer of a dense block"),
        ("embed_tokens", "an adapter changes embed_tokens.weight, which is no linear layer"),
        ("biased.0.attn.q", "x changes biased.0.attn.q.bias"),
    ],
)
def test_tensors_that_are_no_linear_layers(tmp_path: Path, module: str, said: str | None) -> None:
    tensors = {f"{module}.weight": torch.ones(3, 2), f"{module}.bias": torch.ones(3)}
    factors = {"lora_A.weight": torch.ones(1, 2), "lora_B.weight": torch.ones(3, 1)}
    if "biased" in module:
        factors["lora_B.bias"] = torch.ones(3)
    base = Checkpoint.open(bare(tmp_path / "base", tensors))
    adapter = bare_lora(tmp_path / "x", {f"{module}.{part}": tensor for part, tensor in factors.items()})
    why = why_not_stacked(base, {"x": Adapted(base, adapter)})
    assert why is None if said is None else str(why).startswith(said), why


def test_models_that_are_no_adapters_on_the_base(tmp_path: Path) -> None:
    base, other = llama(tmp_path / "base", 0), llama(tmp_path / "other", 1)
    adapter = lora(tmp_path / "a", base)
    plain, below = Checkpoint.open(base), Checkpoint.open(other)
    assert why_not_stacked(plain, {"a": Adapted(plain, adapter), "x": below}) == "x is no adapter (LoRA) on the base"
    said = why_not_stacked(plain, {"x": Adapted(below, adapter)})
    assert said == "x is an adapter on another model than the base"
    constructed = Adapted(plain, adapter, rounded=True)
    assert "the base is constructed" in str(why_not_stacked(constructed, {"a": Adapted(constructed, adapter)}))
