"""Recipes of slices: blocks of several models in a new order, loaded and run by transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.mosaic import with_depth
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe, RecipeError, Slice
from evomerge.recipe.file import read_merge, write_merge
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.folders import bare, llama, tokenizer

BLOCK = "model.layers.{}.mlp.up_proj.weight"


def recipe(folder: Path, slices: tuple[Slice, ...], method: str = "passthrough") -> Recipe:
    base = tokenizer(llama(folder / "base", 0, num_hidden_layers=4, max_position_embeddings=64))
    for number, name in enumerate(("add", "sort"), 1):
        if not (folder / name).exists():
            tokenizer(llama(folder / name, number, num_hidden_layers=4, max_position_embeddings=64))
    inputs = tuple(Input(name, str(folder / name)) for name in ("add", "sort"))
    return Recipe(Input("base", str(base)), inputs, method, slices=slices)


def merge_of(made: Recipe, **values: list[float]) -> Merge:
    return Merge(made, CoefficientTable({"all": ("*",)}, {name: np.array([row]) for name, row in values.items()}))


STACKED = (Slice(3, ("add", 0), {"add": 0}), Slice(2, ("sort", 2), {"sort": 2}))


def test_a_frankenmerge_is_the_blocks_of_its_models_and_generates(tmp_path: Path) -> None:
    merge = merge_of(recipe(tmp_path, STACKED), scale=[1.0, 1.0])
    materialize(merge, tmp_path / "out")
    written = Checkpoint.open(tmp_path / "out")
    assert written.config is not None
    assert written.config["num_hidden_layers"] == 5
    add, sort = Checkpoint.open(tmp_path / "add"), Checkpoint.open(tmp_path / "sort")
    origins = [(add, 0), (add, 1), (add, 2), (sort, 2), (sort, 3)]
    for place, (model, block) in enumerate(origins):
        assert torch.equal(written.tensor(BLOCK.format(place)), model.tensor(BLOCK.format(block)))
    assert torch.equal(written.tensor("model.embed_tokens.weight"), add.tensor("model.embed_tokens.weight"))
    assert torch.equal(written.tensor("model.norm.weight"), sort.tensor("model.norm.weight"))
    assert torch.equal(written.tensor("lm_head.weight"), sort.tensor("lm_head.weight"))
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(network.model.layers) == 5
    tokens = network.generate(torch.tensor([[1, 2]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert tokens.shape[1] > 2


def test_depth_up_scaling_repeats_the_middle_of_one_model(tmp_path: Path) -> None:
    """SOLAR: of n blocks the first n - m, then the last n - m; here 4 and 1."""
    slices = (Slice(3, ("add", 0), {"add": 0}), Slice(3, ("add", 1), {"add": 1}))
    materialize(merge_of(recipe(tmp_path, slices), scale=[1.0, 1.0]), tmp_path / "out")
    written, add = Checkpoint.open(tmp_path / "out"), Checkpoint.open(tmp_path / "add")
    for place, block in enumerate((0, 1, 2, 1, 2, 3)):
        assert torch.equal(written.tensor(BLOCK.format(place)), add.tensor(BLOCK.format(block)))
    assert written.config is not None
    assert written.config["num_hidden_layers"] == 6


def test_slices_that_follow_the_base_are_the_plain_merge(tmp_path: Path) -> None:
    whole = Slice(4, ("base", 0), {"add": 0, "sort": 0})
    halves = (Slice(2, ("base", 0), {"add": 0, "sort": 0}), Slice(2, ("base", 2), {"add": 2, "sort": 2}))
    made = []
    for number, slices in enumerate(((), (whole,), halves)):
        out = tmp_path / f"out{number}"
        materialize(merge_of(recipe(tmp_path, slices, "task_arithmetic"), weight=[0.3, 0.6]), out)
        model = Checkpoint.open(out)
        made.append({name: model.tensor(name) for name in model.names})
    for other in made[1:]:
        assert other.keys() == made[0].keys()
        assert all(torch.equal(other[name], tensor) for name, tensor in made[0].items())


def test_an_input_takes_part_only_in_the_slices_that_name_it(tmp_path: Path) -> None:
    slices = (Slice(2, ("base", 0), {"add": 0, "sort": 1}), Slice(2, ("base", 2), {"sort": 0}))
    made = recipe(tmp_path, slices, "task_arithmetic")
    merged = dict(open_models(made).engine().stream(merge_of(made, weight=[0.25, 0.5])))
    base, add, sort = (Checkpoint.open(tmp_path / name) for name in ("base", "add", "sort"))
    b = base.tensor(BLOCK.format(1))
    wanted = b + 0.25 * (add.tensor(BLOCK.format(1)) - b) + 0.5 * (sort.tensor(BLOCK.format(2)) - b)
    torch.testing.assert_close(merged[BLOCK.format(1)], wanted)
    b = base.tensor(BLOCK.format(3))
    torch.testing.assert_close(merged[BLOCK.format(3)], b + 0.5 * (sort.tensor(BLOCK.format(1)) - b))
    norm = "model.norm.weight"
    torch.testing.assert_close(
        merged[norm], base.tensor(norm) + 0.5 * (sort.tensor(norm) - base.tensor(norm)), rtol=0, atol=1e-7
    )


def test_a_configuration_follows_its_blocks(tmp_path: Path) -> None:
    made = recipe(tmp_path, STACKED)
    path = tmp_path / "base" / "config.json"
    kinds = ["full", "sliding", "full", "linear"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_types": kinds, "max_window_layers": 4}))
    config = open_models(made).base.config
    assert config is not None
    assert config["layer_types"] == ["full", "sliding", "full", "full", "linear"]
    assert config["max_window_layers"] == 5
    assert json.loads(path.read_text())["num_hidden_layers"] == 4


def test_blocks_that_a_model_does_not_have_are_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path, (Slice(2, ("add", 3), {"add": 3}),))
    with pytest.raises(CheckpointError, match=r"blocks 3 to 4 of \w+ \(.*\), which has 4, counted from 0"):
        open_models(made)


def test_models_of_two_stacks_are_refused(tmp_path: Path) -> None:
    tensors = {f"{stack}.layers.{n}.fc.weight": torch.ones(2, 2) for stack in ("encoder", "decoder") for n in (0, 1)}
    for name in ("base", "add"):
        bare(tmp_path / name, tensors)
    made = Recipe(
        Input("base", str(tmp_path / "base")),
        (Input("add", str(tmp_path / "add")),),
        "passthrough",
        slices=(Slice(1, ("add", 0), {"add": 0}),),
    )
    with pytest.raises(CheckpointError, match=r"2 stacks .*: 'decoder' \(2\), 'encoder' \(2\)\. Merge it whole"):
        open_models(made)


def test_slices_in_a_recipe_file(tmp_path: Path) -> None:
    made = recipe(tmp_path, STACKED)
    write_merge(merge_of(made, scale=[1.0, 0.5]), tmp_path / "recipe.yaml")
    assert read_merge(tmp_path / "recipe.yaml").recipe == made
    assert made.fingerprint != recipe(tmp_path, ()).fingerprint
    text = (tmp_path / "recipe.yaml").read_text()
    cases = {
        "block: 3": "block: 3",
        "blocks: three": "needs its number of `blocks`",
        "blocks: -1": "at least one block",
    }
    for wrong, message in cases.items():
        (tmp_path / "wrong.yaml").write_text(text.replace("blocks: 3", wrong, 1))
        with pytest.raises(RecipeError, match=message.split(":")[0]):
            read_merge(tmp_path / "wrong.yaml")


def test_slices_without_blocks_say_whose_ends_the_result_has(tmp_path: Path) -> None:
    ends = Slice(0, ("sort", 0), {"sort": 0})
    made = recipe(tmp_path, (ends, *STACKED, ends))
    materialize(merge_of(made, scale=[1.0, 1.0]), tmp_path / "out")
    written, sort = Checkpoint.open(tmp_path / "out"), Checkpoint.open(tmp_path / "sort")
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(written.tensor(name), sort.tensor(name))
    assert written.config is not None
    assert written.config["num_hidden_layers"] == 5
    again = read_mergekit(tmp_path / "out" / "mergekit_config.yml")
    assert again.recipe.slices == made.slices
    for wrong in ((ends,), (ends, ends), (STACKED[0], ends, STACKED[1])):
        with pytest.raises(RecipeError, match="at least one block"):
            recipe(tmp_path, wrong)


def test_a_slice_of_a_stranger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least one input of the recipe"):
        recipe(tmp_path, (Slice(1, ("law", 0), {"law": 0}),))


def test_lists_of_blocks_and_sizes_by_block_follow_their_blocks() -> None:
    config = {
        "num_hidden_layers": 4,
        "mlp_only_layers": [0, 3],
        "no_rope_layers": [1, 1, 1, 0],
        "intermediate_size": [10, 11, 12, 13],
        "eos_token_id": [5, 6, 7, 8],
        "text_config": {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"], "moe_layers": [2]},
    }
    changed = with_depth(config, [0, 1, 1, 2, 3, 3])
    assert changed["mlp_only_layers"] == [0, 4, 5]
    assert changed["no_rope_layers"] == [1, 1, 1, 1, 0, 0]
    assert changed["intermediate_size"] == [10, 11, 11, 12, 13, 13]
    assert changed["eos_token_id"] == [5, 6, 7, 8]
    assert changed["text_config"] == {
        "num_hidden_layers": 6,
        "layer_types": ["a", "b", "b", "c", "d", "d"],
        "moe_layers": [3],
    }
