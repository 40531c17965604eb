from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from evomerge.merging.engine import MergeEngine
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.prepare.calibration import collect
from evomerge.prepare.calibration.blocks import blocks_of
from evomerge.prepare.calibration.collect import Settings
from evomerge.prepare.calibration.data import CollectionError, Example, Text, encode_texts
from evomerge.prepare.calibration.layers import Collected
from evomerge.prepare.calibration.merged_layers import check_merge, collect_through
from evomerge.recipe import Input, Merge, Recipe, Slice
from evomerge.resident.resident import ResidentModel, load_resident
from search_spaces.base import CoefficientTable
from tests.evaluators.tiny_llama import LLAMA, LOUD, build

TEXTS = {"a": ["the quick fox", "2+3=5", "over"], "b": ["AXIOM: 17*3", "LEMMA 9", "ok, then!"]}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}


@dataclass(frozen=True)
class Case:
    """Two experts with the base's embeddings, and a merge of them by regmean."""

    merge: Merge
    sources: RecipeModels
    examples: dict[str, list[Example]]

    def resident(self, name: str = "base") -> ResidentModel:
        model = {"base": self.sources.base, **self.sources.inputs}[name]
        return load_resident(model, self.sources.tokenizer, torch.float32, "cpu")

    def through(self) -> tuple[dict[str, Collected], ResidentModel]:
        model = self.resident()
        return collect_through(self.merge, self.sources, model, self.examples, 64), model

    def merged(self, statistics: dict[str, Any]) -> dict[str, Tensor]:
        inputs = tuple(self.sources.inputs.values())
        moments = [None, *statistics.values()]
        engine = MergeEngine(self.sources.base, inputs, names=tuple(statistics), moments=moments)
        return dict(engine.stream(self.merge))


def case(folder: Path, *given: Any, **own: Any) -> Case:
    base = build(folder / "base", 3, *given, **own)
    for seed, name in enumerate(TEXTS):
        network = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter_name, parameter in network.named_parameters():
                if not any(word in parameter_name for word in ("embed", "wte", "wpe")):
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
        network.save_pretrained(folder / name)
    inputs = tuple(Input(name, str(folder / name)) for name in TEXTS)
    recipe = Recipe(Input("base", str(folder / "base")), inputs, "regmean")
    # Every group of the recipe has tensors in several blocks and outside of them.
    values = {"weight": np.array([[0.4, 0.8], [1.0, 0.5]]), "off_diagonal": np.array([[0.9], [0.8]])}
    groups = {"attention": ("*attn*", "*norm*"), "rest": ("*",)}
    merge = Merge(recipe, CoefficientTable(groups, values))
    examples = {
        name: encode_texts([Text("", text) for text in texts], base.tokenizer, 16) for name, texts in TEXTS.items()
    }
    return Case(merge, open_models(recipe), examples)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case(tmp_path_factory.mktemp("two"))


def plain(found: Case) -> dict[str, Collected]:
    """Each input's statistics behind its own layers."""
    return {
        name: collect.collect(found.resident(name), examples, Settings(("gram",)))
        for name, examples in found.examples.items()
    }


def test_with_one_block_it_is_regmean(tmp_path: Path) -> None:
    one = case(tmp_path, **{**LLAMA, **LOUD, "num_hidden_layers": 1})
    found, _ = one.through()
    own = plain(one)
    for name, statistics in found.items():
        assert set(statistics) == set(own[name])
        for key, moment in statistics.items():
            if "lm_head" not in key:
                torch.testing.assert_close(moment, own[name][key], rtol=1e-5, atol=1e-6)
    ours, theirs = one.merged(found), one.merged(own)
    for tensor, value in ours.items():
        if "lm_head" not in tensor:
            torch.testing.assert_close(value, theirs[tensor], rtol=1e-4, atol=1e-5)


def test_the_second_block_reads_what_the_merged_first_one_writes(two: Case) -> None:
    found, _ = two.through()
    own, merged = plain(two), two.merged(found)
    for name, examples in two.examples.items():
        expert = two.resident(name)
        for tensor, live in expert.tensors.items():
            if "layers.1" not in tensor:
                live.copy_(merged[tensor])
        expected = collect.collect(expert, examples, Settings(("gram",)))
        for key, moment in found[name].items():
            first = "layers.0" in key
            torch.testing.assert_close(moment, own[name][key] if first else moment, rtol=1e-5, atol=1e-6)
            if "layers.1" in key:
                torch.testing.assert_close(moment, expected[key], rtol=1e-4, atol=1e-5)
                assert not torch.allclose(moment, own[name][key], rtol=0.02)


def test_the_output_embeddings_read_what_the_whole_merge_writes(two: Case) -> None:
    found, model = two.through()
    for name, examples in two.examples.items():
        expected = collect.collect(model, examples, Settings(("gram",)))
        torch.testing.assert_close(found[name]["gram/lm_head.weight"], expected["gram/lm_head.weight"])


def test_the_model_ends_as_the_merge_with_these_statistics(two: Case) -> None:
    found, model = two.through()
    merged = two.merged(found)
    assert all(torch.equal(model.tensors[name], tensor) for name, tensor in merged.items())


def test_layers_stored_in_out(tmp_path: Path) -> None:
    gpt2 = case(tmp_path, transformers.GPT2Config, transformers.GPT2LMHeadModel, **GPT2)
    merge = replace(gpt2.merge, table=CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.5, 0.5]])}))
    gpt2 = replace(gpt2, merge=merge)
    found, model = gpt2.through()
    assert "transposed/transformer.h.1.attn.c_proj.weight" in found["a"]
    merged = gpt2.merged(found)
    assert all(torch.equal(model.tensors[name], tensor) for name, tensor in merged.items())
    assert not torch.allclose(
        found["a"]["gram/transformer.h.1.attn.c_attn.weight"],
        plain(gpt2)["a"]["gram/transformer.h.1.attn.c_attn.weight"],
    )


def test_progress_ends_at_the_total(two: Case) -> None:
    seen: list[tuple[int, int]] = []
    collect_through(
        two.merge, two.sources, two.resident(), two.examples, 64, lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1]


def test_unsuitable_recipes_are_errors(two: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = two.merge.recipe
    with pytest.raises(CollectionError, match="method is linear, which needs no second moments"):
        check_merge(replace(two.merge, recipe=replace(recipe, method="linear")), ["a", "b"])
    with pytest.raises(CollectionError, match="Expected data for each of a, b; got data for a, c"):
        check_merge(two.merge, ["a", "c"])
    sliced = replace(recipe, slices=(Slice(1, ("base", 0), {"a": 0, "b": 1}),))
    with pytest.raises(CollectionError, match="with slices"):
        check_merge(replace(two.merge, recipe=sliced), ["a", "b"])
    monkeypatch.setattr(collect, "available_memory", lambda: 1000)
    with pytest.raises(CollectionError, match="second moments of 2 inputs need"):
        two.through()
    monkeypatch.undo()
    model = two.resident()
    model.network.config.num_hidden_layers = 7
    with pytest.raises(CollectionError, match="has 0 lists of its 7 blocks"):
        blocks_of(model.network)
