"""The space `auto`: tensors, gathered in blocks, where gradients are followed; layers elsewhere."""

from pathlib import Path

import pytest

from evomerge.plugins import PluginSpec
from evomerge.recipe import Input, Recipe
from evomerge.space import chosen_space
from search_spaces.auto import Auto
from tests.contracts.search_space import SearchSpaceContract, model


class TestAuto(SearchSpaceContract):
    space = Auto

    def test_coordinates_of_a_block_its_parameter_and_its_input_have_one_number(self) -> None:
        space = self.build(model(3))
        coarse = space.coarse
        assert coarse is not None
        assert coarse.shape == (space.dimension,)
        number = dict(zip(space.names, coarse.tolist(), strict=True))
        q, k = (f"weight[model.layers.0.self_attn.{name}_proj.weight, math]" for name in "qk")
        assert number[q] == number[k]
        others = (q.replace("math", "code"), q.replace("layers.0", "layers.1"), q.replace("weight[", "density["))
        assert len({number[name] for name in (q, *others)}) == 4
        assert sorted(set(number.values())) == list(range(coarse.max() + 1))

    def test_tied_groups_have_a_number_of_their_own(self) -> None:
        space = self.build(tie=[["*.q_proj.*", "*.k_proj.*"]])
        assert space.coarse is not None
        tied = [n for name, n in zip(space.names, space.coarse.tolist(), strict=True) if "_proj.*" in name]
        assert len(set(tied)) == len(tied)
        assert not set(tied) & {n for name, n in zip(space.names, space.coarse, strict=True) if "_proj.*" not in name}


@pytest.mark.parametrize(
    ("optimizer", "method", "kind"),
    [
        ("auto", "task_arithmetic", "tensorwise"),
        ("gradient", "ties", "tensorwise"),
        ("cma_es", "task_arithmetic", "layerwise"),
        ("auto", "regmean", "layerwise"),
    ],
)
def test_optimizer_and_method_decide_what_it_stands_for(optimizer: str, method: str, kind: str, tmp_path: Path) -> None:
    recipes = {method: Recipe(Input("base", str(tmp_path)), (Input("math", str(tmp_path)),), method)}
    options = {"ranges": {"weight": [0.0, 1.0]}}
    assert chosen_space(PluginSpec("auto", options), PluginSpec(optimizer), recipes) == PluginSpec(kind, options)
    assert chosen_space(PluginSpec("uniform"), PluginSpec(optimizer), recipes) == PluginSpec("uniform")
