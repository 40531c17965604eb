from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from evomerge.launch.memory import memory_needs
from evomerge.merging.factors import Factors
from evomerge.merging.models.adapter import Adapted
from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe, Slice
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.adapters import bare_lora, change_lora, lora, merged_by_peft
from tests.evomerge.merging.folders import bare, llama, tokenizer

# PEFT and transformers, while they prepare what these tests compare with.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "every projection": {"target_modules": ALL},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "rslora": {"use_rslora": True, "r": 3},
    "dora": {"use_dora": True, "target_modules": ALL},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 5},
        "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 11},
        "use_rslora": True,
    },
    "bias of all": {"bias": "all"},
    "bias of its layers": {"bias": "lora_only"},
    "bias of its own": {"lora_bias": True},
    "modules_to_save": {"modules_to_save": ["lm_head", "norm", "input_layernorm"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "dora on embeddings": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "mica": {"init_lora_weights": "mica", "r": 2},
}


#: There PEFT rounds the change to the base's type before it adds it; here it is rounded once, in the end.
ROUNDED_TWICE = ("embeddings", "mica")


def gpt2(folder: Path) -> Path:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=24, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(5)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def check_same(model: Adapted, expected: dict[str, torch.Tensor], *, exact: bool = True) -> int:
    """Bit for bit, or to one rounding; returns the number of tensors that the adapter changes."""
    changed = 0
    for name in model.names:
        wanted = expected[name]
        found = model.tensor(name)
        assert found.dtype == model.dtype(name)
        assert found.is_contiguous()
        if exact:
            assert torch.equal(found.to(wanted.dtype), wanted), name
        else:
            torch.testing.assert_close(found.float(), wanted.float(), rtol=2**-7, atol=2**-9)
        changed += not torch.equal(found.float(), model._base.tensor(name).float())
    return changed


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folds_as_peft_does(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    base = llama(tmp_path / "base", dtype=dtype, attention_bias=True)
    adapter = lora(tmp_path / "lora", base, **KINDS[kind])
    model = Adapted(Checkpoint.open(base), adapter)
    exact = dtype == torch.float32 or kind not in ROUNDED_TWICE
    assert check_same(model, merged_by_peft(base, adapter, dtype), exact=exact) > 0
    rounded = Adapted(Checkpoint.open(base), adapter, rounded=True)
    assert all(rounded.dtype(name) == rounded.tensor(name).dtype == dtype for name in rounded.names)


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("dora", [True, False])
def test_folds_projections_with_a_row_per_input(tmp_path: Path, said: bool, dora: bool) -> None:
    """GPT-2's `c_proj` in the attention is square: only its kind says which way round it is."""
    base = gpt2(tmp_path / "base")
    adapter = lora(tmp_path / "lora", base, target_modules=["c_attn", "c_proj", "c_fc"], use_dora=dora)
    change_lora(adapter, fan_in_fan_out=said)
    assert check_same(Adapted(Checkpoint.open(base), adapter), merged_by_peft(base, adapter)) == 8


def test_folds_into_a_square_matrix_as_the_base_stores_it(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapter = change_lora(lora(tmp_path / "lora", base, target_modules=["o_proj"]), fan_in_fan_out=True)
    assert check_same(Adapted(Checkpoint.open(base), adapter), merged_by_peft(base, adapter)) == 2
    weight = torch.zeros(2, 2)
    factors = {"x.lora_A.weight": torch.tensor([[1.0, 2.0]]), "x.lora_B.weight": torch.tensor([[3.0], [5.0]])}
    product = torch.tensor([[3.0, 6.0], [5.0, 10.0]])
    without_config = Checkpoint.open(bare(tmp_path / "bare", {"x.weight": weight}))
    for said, expected in ((False, product), (True, product.T)):
        by_hand = bare_lora(tmp_path / "hand", factors, fan_in_fan_out=said)
        assert torch.equal(Adapted(without_config, by_hand).tensor("x.weight"), expected)


def test_names_may_differ_by_what_stands_in_front(tmp_path: Path) -> None:
    """Base checkpoints of GPT-2 on the hub have no `transformer.` in front."""
    base = gpt2(tmp_path / "base")
    adapter = lora(tmp_path / "lora", base, target_modules=["c_attn"])
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(base / "model.safetensors").items()}
    short = bare(tmp_path / "short", tensors)
    folded = Adapted(Checkpoint.open(short), adapter)
    expected = merged_by_peft(base, adapter)
    for name in folded.names:
        assert torch.equal(folded.tensor(name), expected[f"transformer.{name}"]), name


def test_a_change_too_small_for_the_bases_type_is_kept_until_the_merge(tmp_path: Path) -> None:
    base = Checkpoint.open(bare(tmp_path / "base", {"x.weight": torch.ones(2, 2, dtype=torch.bfloat16)}))
    tiny = {"x.lora_A.weight": torch.full((1, 2), 2.0**-10), "x.lora_B.weight": torch.ones(2, 1)}
    adapter = bare_lora(tmp_path / "lora", tiny)
    assert torch.equal(Adapted(base, adapter).tensor("x.weight"), torch.full((2, 2), 1 + 2.0**-10))
    assert torch.equal(Adapted(base, adapter, rounded=True).tensor("x.weight"), base.tensor("x.weight"))


def test_tensors_without_adapter_are_the_files_own(tmp_path: Path) -> None:
    base = Checkpoint.open(llama(tmp_path / "base"))
    folded = Adapted(base, lora(tmp_path / "lora", base.path, target_modules=["q_proj"]))
    for name in folded.names:
        same_memory = folded.tensor(name).data_ptr() == base.tensor(name).data_ptr()
        assert same_memory == ("q_proj" not in name), name


def test_threads_do_not_change_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor could they where products of matrices depend on them: these run in one."""
    seen, delta = [], Factors.delta
    monkeypatch.setattr(Factors, "delta", lambda factors: (seen.append(torch.get_num_threads()), delta(factors))[1])
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(700, 900, generator=random)
    factors = {
        "x.lora_A.weight": torch.randn(300, 900, generator=random),
        "x.lora_B.weight": torch.randn(700, 300, generator=random),
    }
    base = Checkpoint.open(bare(tmp_path / "base", {"x.weight": weight}))
    model = Adapted(base, bare_lora(tmp_path / "lora", factors, r=300))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(model.tensor("x.weight"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert seen == [1, 1, 1]


def one_hot(recipe: Recipe, index: int) -> Merge:
    weight = np.eye(len(recipe.inputs))[index : index + 1]
    return Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": weight}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "lora_linear"])
def test_one_hot_is_the_adapters_own_model(tmp_path: Path, method: str, dtype: torch.dtype) -> None:
    base = tokenizer(llama(tmp_path / "base", dtype=dtype))
    folders = [lora(tmp_path / "a", base), lora(tmp_path / "b", base, 2, use_dora=True, target_modules=ALL)]
    inputs = (Input("a", str(folders[0])), Input("b", str(base), adapter=str(folders[1])))
    recipe = Recipe(Input("base", str(base)), inputs, method)
    for index, folder in enumerate(folders):
        manifest = materialize(one_hot(recipe, index), tmp_path / f"out-{index}")
        expected = merged_by_peft(base, folder, dtype)
        for name, tensor in load_file(tmp_path / f"out-{index}" / "model.safetensors").items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor, expected[name]), name
    assert set(manifest.inputs["a"]["sha256"]) == {
        "model.safetensors",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert manifest.inputs["a"]["sha256"] == Adapted(Checkpoint.open(base), folders[0]).sha256()
    assert [entry["source"] for entry in manifest.inputs.values()] == ["base", "a", "base"]
    assert [entry.get("adapter") for entry in manifest.inputs.values()] == [None, None, "b"]
    card = (tmp_path / "out-1" / "README.md").read_text()
    assert "| `b` | `base + b` |" in card
    assert "base_model:\n" not in card


def test_an_adapter_by_itself_goes_on_the_recipes_base(tmp_path: Path) -> None:
    base, other = llama(tmp_path / "base"), llama(tmp_path / "other", 3)
    adapter = lora(tmp_path / "lora", base)
    inputs = (
        Input("alone", str(adapter)),
        Input("on base", str(base), adapter=str(adapter)),
        Input("on other", str(other), adapter=str(adapter)),
    )
    sources = open_models(Recipe(Input("base", str(base)), inputs, "linear"))
    name = "model.layers.0.self_attn.q_proj.weight"
    alone, on_base, on_other = (sources.inputs[model.name] for model in inputs)
    assert torch.equal(alone.tensor(name), on_base.tensor(name))
    assert not torch.equal(alone.tensor(name), on_other.tensor(name))
    for model, known in ((alone, True), (on_base, True), (on_other, False)):
        assert (model.factors(name, sources.base) is not None) == known
    untouched = alone.factors("model.layers.0.mlp.up_proj.weight", sources.base)
    assert untouched is not None
    assert (untouched.rank, untouched.delta().count_nonzero()) == (0, 0)
    assert alone.factors("model.norm.weight", sources.base) is None


def test_a_base_may_have_an_adapter(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", dtype=torch.bfloat16)
    below, above = lora(tmp_path / "below", base), lora(tmp_path / "above", base, 4)
    recipe = Recipe(Input("base", str(base), adapter=str(below)), (Input("a", str(above)),), "task_arithmetic")
    sources = open_models(recipe)
    folded = merged_by_peft(base, below, torch.bfloat16)
    for name in sources.base.names:
        assert torch.equal(sources.base.tensor(name), folded[name])
    name = "model.layers.1.self_attn.v_proj.weight"
    factors = sources.inputs["a"].factors(name, sources.base)
    assert factors is not None
    assert torch.equal(sources.inputs["a"].tensor(name), folded[name] + factors.delta())


def test_refuses_adapters_of_adapters_and_adapters_as_base(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapter = str(lora(tmp_path / "lora", base))
    with pytest.raises(CheckpointError, match="name the model that it was trained on as the base"):
        open_models(Recipe(Input("base", adapter), (Input("a", str(base)),), "linear"))
    with pytest.raises(CheckpointError, match="expected a whole model under it"):
        open_models(Recipe(Input("base", str(base)), (Input("a", adapter, adapter=adapter),), "linear"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "type 'IA3' cannot be folded"),
        ({"peft_type": "PREFIX_TUNING"}, "type 'PREFIX_TUNING' cannot be folded"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "never run"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base too"),
        ({"r": 0}, "'r' must be a positive integer; it is 0"),
        ({"lora_alpha": "much"}, "'lora_alpha' must be a finite number; it is 'much'"),
        ({"lora_alpha": float("nan")}, "'lora_alpha' must be a finite number; it is nan"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must map patterns to numbers"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "repeated groups"),
        ({"alpha_pattern": {"a" * 301: 1}}, "long texts"),
        ({"alpha_pattern": {"(": 1}}, "not a regular expression"),
        ({"r": 8}, r"of rank 8"),
    ],
)
def test_refuses_what_it_cannot_fold(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    base = llama(tmp_path / "base")
    adapter = change_lora(lora(tmp_path / "lora", base), **changes)
    with pytest.raises(CheckpointError, match=message):
        Adapted(Checkpoint.open(base), adapter)


def test_refuses_an_adapter_of_another_model_with_names_and_shapes(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapter = lora(tmp_path / "lora", base, modules_to_save=["lm_head"])
    wider = Checkpoint.open(llama(tmp_path / "wider", hidden_size=32))
    with pytest.raises(CheckpointError) as error:
        Adapted(wider, adapter)
    assert "does not fit" in str(error.value)
    assert "'model.layers.0.self_attn.q_proj.weight' (32, 32) has factors (16, 4), (4, 16) of rank 4" in str(
        error.value
    )
    assert "'base_model.model.lm_head.weight' has shape (24, 16), 'lm_head.weight' (24, 32)" in str(error.value)
    shallower = Checkpoint.open(llama(tmp_path / "shallower", num_hidden_layers=1))
    with pytest.raises(CheckpointError, match=r"2 place\(s\): no tensor for .*layers.1.self_attn.q_proj.lora_A"):
        Adapted(shallower, adapter)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.lora_A.weight": (1, 3)}, "only one of two factors"),
        ({"x.lora_A.weight": (1, 3), "x.lora_B.weight": (2, 2)}, "of rank 1"),
        ({"x.lora_A.weight": (1, 3, 1, 1), "x.lora_B.weight": (2, 1, 1, 1)}, "of rank 1"),
        ({"x.lora_A.weight": (1, 3), "x.lora_B.weight": (2, 1), "x.lora_magnitude_vector": (3,)}, r"\(3,\)"),
        ({"x.lora_A.weight": (1, 3), "x.lora_B.weight": (2, 1), "x.lora_B.bias": (2,)}, "no bias for"),
        ({"x.lora_A.weight": (1, 3), "x.lora_B.weight": (2, 1), "x.lora_diag": (1,)}, "lora_diag"),
        ({"x.token_adapter.trainable_tokens_delta": (2, 3)}, "no tensor for"),
    ],
)
def test_refuses_tensors_without_meaning(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    base = Checkpoint.open(bare(tmp_path / "base", {"x.weight": torch.zeros(2, 3)}))
    adapter = bare_lora(tmp_path / "lora", {name: torch.ones(shape) for name, shape in tensors.items()})
    with pytest.raises(CheckpointError, match=message):
        Adapted(base, adapter)


def test_refuses_to_take_tied_embeddings_apart(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = lora(tmp_path / "lora", base, modules_to_save=["embed_tokens"])
    with pytest.raises(CheckpointError, match="keeps tied"):
        Adapted(Checkpoint.open(base), adapter)


def test_tied_embeddings_with_a_lora_stay_tied(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = lora(tmp_path / "lora", base, target_modules=["embed_tokens"])
    expected = merged_by_peft(base, adapter)
    assert torch.equal(expected["lm_head.weight"], expected["model.embed_tokens.weight"])
    assert check_same(Adapted(Checkpoint.open(base), adapter), expected) == 1


def test_refuses_pickles_and_files_outside(tmp_path: Path) -> None:
    base = Checkpoint.open(llama(tmp_path / "base"))
    adapter = lora(tmp_path / "lora", base.path)
    weights = adapter / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="lacks 'adapter_model"):
        Adapted(base, adapter)
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="points outside the model folder"):
        Adapted(base, adapter)
    weights.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="a pickle, which can run code"):
        Adapted(base, adapter)
    weights.write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(CheckpointError, match="is a pickle file"):
        Adapted(base, adapter)


@pytest.mark.parametrize("how", ["slices", "tokenizer"])
def test_factors_are_seen_through_slices_and_vocabularies(tmp_path: Path, how: str) -> None:
    """Weights of the same two blocks, or of the same tokens, are merged by their factors as without either."""
    base = tokenizer(llama(tmp_path / "base", vocab_size=4))
    inputs = tuple(Input(name, str(lora(tmp_path / name, base, seed))) for seed, name in enumerate("ab"))
    plain = Recipe(Input("base", str(base)), inputs, "lora_linear")
    blocks = tuple(Slice(1, ("base", n), {"a": n, "b": n}) for n in (0, 1))
    other = replace(plain, slices=blocks) if how == "slices" else replace(plain, tokenizer="base")
    table = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.5, 0.3]])})
    found, expected = (dict(open_models(r).engine().stream(Merge(r, table))) for r in (other, plain))
    summed = replace(plain, method="task_arithmetic")
    exact = dict(open_models(summed).engine().stream(Merge(summed, table)))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not torch.allclose(
        expected["model.layers.1.self_attn.q_proj.weight"], exact["model.layers.1.self_attn.q_proj.weight"]
    )


def test_a_block_moved_off_its_base_has_no_factors(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    inputs = (Input("a", str(lora(tmp_path / "a", base))),)
    crossed = (Slice(1, ("base", 0), {"a": 1}), Slice(1, ("base", 1), {"a": 1}))
    sources = open_models(Recipe(Input("base", str(base)), inputs, "lora_linear", slices=crossed))
    name = "model.layers.{}.self_attn.q_proj.weight"
    assert sources.inputs["a"].factors(name.format(0), sources.base) is None
    assert sources.inputs["a"].factors(name.format(1), sources.base) is not None


def test_candidates_read_folded_weights_that_were_folded_once(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", 0)
    inputs = tuple(Input(name, str(lora(tmp_path / name, base, seed))) for seed, name in enumerate("ab", 1))
    recipe = Recipe(Input("base", str(base)), inputs, "task_arithmetic")
    tables = [CoefficientTable({"all": ("*",)}, {"weight": np.array([w])}) for w in ([0.3, 0.4], [1, 2])]
    merges = [Merge(recipe, table, 0) for table in tables]
    folded: list[str] = []

    class Watched(Adapted):
        def tensor(self, name: str) -> torch.Tensor:
            folded.extend([name] if self.made(name) else [])
            return super().tensor(name)

    def read(keep: int) -> tuple[dict[str, torch.Tensor], int]:
        sources = open_models(recipe)
        for model in sources.inputs.values():
            model.__class__ = Watched
        engine = sources.engine(keep=keep)
        into = {name: sources.base.tensor(name).clone() for name in sources.base.names}
        engine.apply(merges[0], into)
        folded.clear()
        engine.apply(merges[1], into)
        return into, len(folded)

    whole = memory_needs(open_models(recipe), None, None).folded
    changed = [tensor for name, tensor in read(0)[0].items() if "q_proj" in name or "v_proj" in name]
    assert whole == sum(2 * 4 * tensor.numel() for tensor in changed)
    (always, n_always), (once, n_once), (half, n_half) = read(0), read(whole), read(whole // 2)
    assert (n_always, n_half, n_once) == (8, 4, 0)
    for name, tensor in always.items():
        assert torch.equal(tensor, once[name])
        assert torch.equal(tensor, half[name])
