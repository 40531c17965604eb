"""There and back: a recipe written for mergekit and read again is the same recipe and makes the same weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from evomerge import plugins
from evomerge.merging.mergekit.methods import METHODS
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.mergekit.write import InteropError, dump
from evomerge.merging.method import MergeMethod
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.output.materialize import materialize
from evomerge.recipe import Input, Merge, Recipe, Slice, Vocabulary
from search_spaces.base import CoefficientTable, Layout
from tests.evomerge.merging.folders import llama, tokenizer

N_BLOCKS = 3
MODELS = ("base", "math", "code", "chat")
#: Shrinking takes minutes, and every example says by itself what is wrong.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODELS):
        tokenizer(llama(folder / name, seed, num_hidden_layers=N_BLOCKS, max_position_embeddings=64))
    return folder


def method_of(name: str) -> MergeMethod:
    found: MergeMethod = plugins.load("merge method", METHODS[name].ours, MergeMethod)
    return found


def drawn_options(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """What makes the method mergekit's, and any of the options that mergekit has, some left at their defaults."""
    row, method = METHODS[name], method_of(name)
    options = {**row.fixed, **row.with_base[draw(st.booleans())]}
    for key in row.keys.values():
        if key.ours in method.options and draw(st.booleans()):
            choices = list(key.values.values()) if key.values else [True, False] if key.kind == "flag" else [1, 7]
            options[key.ours] = draw(
                st.sampled_from(choices + (["paper"] if row.by_density and "s" in key.ours else []))
            )
    if options.get("rescale", method.options.get("rescale")) == "paper":
        return options | {"normalize": False} if row.by_density else options | {"rescale": "none"}
    return options


def drawn_slices(
    draw: st.DrawFn, method: MergeMethod, base: str, inputs: Sequence[str], *, on_base: bool
) -> tuple[Slice, ...]:
    least, most = method.min_inputs, method.max_inputs or len(inputs)
    slices = []
    for _ in range(draw(st.integers(1, 3))):
        blocks = draw(st.integers(1, N_BLOCKS))
        first = st.integers(0, N_BLOCKS - blocks)
        taking = draw(st.permutations(inputs))[: draw(st.integers(least, most))]
        bases = [base, *([name for name in inputs if name not in taking] if on_base else taking)]
        slices.append(
            Slice(blocks, (draw(st.sampled_from(bases)), draw(first)), {name: draw(first) for name in taking})
        )
    used = {name for part in slices for name in part.inputs}
    return tuple(slices) if used == set(inputs) else ()


@st.composite
def merges(draw: st.DrawFn, folder: Path) -> Merge:
    name = draw(st.sampled_from(sorted(METHODS)))
    method = method_of(name)
    most = method.max_inputs or len(MODELS) - 1
    paths = draw(st.permutations(MODELS[1:]))[: draw(st.integers(method.min_inputs, most))]
    names = draw(st.lists(st.text("abc-_ü", min_size=1), min_size=len(paths), max_size=len(paths), unique=True))
    inputs = tuple(Input(label, str(folder / path)) for label, path in zip(names, paths, strict=True))
    options = drawn_options(draw, name)
    on_base = METHODS[name].base == "required" or options.get("relative_to_base", False)
    base = draw(st.sampled_from(["base", "start"]))
    tokens = draw(st.sampled_from([None, "base", "union", names[0]]))
    vocabulary = Vocabulary(draw(st.sampled_from([1, 8])), "base" if on_base else "inputs")
    recipe = Recipe(
        base=Input(base, str(folder / "base")),
        inputs=inputs,
        method=METHODS[name].ours,
        options=options,
        dtype=draw(st.sampled_from([None, "float32", "bfloat16"])),
        tokenizer=tokens,
        slices=drawn_slices(draw, method, base, names, on_base=on_base) if draw(st.booleans()) else (),
        vocabulary=vocabulary if tokens else None,
        chat_template=draw(st.sampled_from([None, "{{ messages[0]['content'] }}"])),
    )
    return Merge(recipe, drawn_table(draw, name, recipe, tensors_of(recipe)), draw(st.integers(0, 99)))


def tensors_of(recipe: Recipe) -> list[str]:
    names = Checkpoint.open(recipe.base.path).names
    if not recipe.slices:
        return list(names)
    block = [name for name in names if ".layers.0." in name]
    depth = sum(part.blocks for part in recipe.slices)
    return [name for name in names if ".layers." not in name] + [
        name.replace(".0.", f".{n}.") for n in range(depth) for name in block
    ]


def drawn_table(draw: st.DrawFn, name: str, recipe: Recipe, tensors: list[str]) -> CoefficientTable:
    """Any division of the tensors into groups, any of the parameters that mergekit has."""
    layout = Layout.from_names(tensors)
    ways = {"one": ["all"] * len(tensors), "layers": layout.blocks, "parts": layout.components, "any": tensors}
    labels = ways[draw(st.sampled_from(sorted(ways)))]
    groups: dict[str, list[str]] = {}
    for tensor, label in zip(layout.names, labels, strict=True):
        groups.setdefault(str(label), []).append(tensor)
    if len(groups) == 1 and draw(st.booleans()):
        groups = {"all": ["*"]}
    said = {key.ours for key in METHODS[name].keys.values()}
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = {}
    for parameter in method_of(name).parameters:
        if parameter.name in said and draw(st.booleans()):
            shape = (len(groups), len(recipe.inputs) if parameter.per_input else 1)
            values[parameter.name] = np.where(seed.random(shape) < 0.3, parameter.default, seed.random(shape))
    return CoefficientTable({label: tuple(members) for label, members in groups.items()}, values)


def arguments(merge: Merge, tensor: str) -> dict[str, Any]:
    """All that decides about one tensor."""
    method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
    found = method.arguments(merge.table.at(tensor), [model.name for model in merge.recipe.inputs])
    present = [model.name for model in merge.recipe.inputs]
    part = part_of(merge.recipe, tensor)
    if part is not None:
        present = [name for name in present if name in part.inputs]
    index = [model.name for model in merge.recipe.inputs]
    return {
        name: [value[index.index(label)] for label in present] if isinstance(value, tuple) else value
        for name, value in found.items()
    }


def part_of(recipe: Recipe, tensor: str) -> Slice | None:
    if not recipe.slices:
        return None
    if ".layers." not in tensor:
        return recipe.slices[0 if "embed" in tensor else -1]
    at = [part for part in recipe.slices for _ in range(part.blocks)]
    return at[int(tensor.split(".")[2])]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data())
def test_a_recipe_comes_back_as_it_was(
    models: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    merge = data.draw(merges(models))
    path = tmp_path_factory.getbasetemp() / "round.yml"
    path.write_text(dump(merge, out_dtype=data.draw(st.sampled_from([None, "float16"]))), encoding="utf-8")
    notes: list[str] = []
    back = read_mergekit(path, note=notes.append)
    assert back.recipe == merge.recipe, (notes, path.read_text())
    assert (back.recipe.fingerprint, back.seed) == (merge.recipe.fingerprint, merge.seed)
    tensors = tensors_of(merge.recipe)
    here, there = merge.table.bind(tensors), back.table.bind(tensors)
    for tensor in tensors:
        wanted = arguments(replace(merge, table=here), tensor)
        assert arguments(replace(back, table=there), tensor) == wanted, path.read_text()


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data())
def test_mergekits_keys_alone_say_the_same_to_the_last_but_names(
    models: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    merge = data.draw(merges(models))
    config = yaml.safe_load(dump(merge))
    del config["evomerge"]
    path = tmp_path_factory.getbasetemp() / "bare.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    if "base_model" not in config and merge.recipe.tokenizer == "base":
        # The base of a method that works without one is known by our own key only.
        with pytest.raises(InteropError, match="is not in the merge"):
            read_mergekit(path)
        return
    back = read_mergekit(path)
    order = [[model.path for model in back.recipe.inputs].index(model.path) for model in merge.recipe.inputs]
    names = [model.name for model in merge.recipe.inputs]
    by_density = "rescale" in back.recipe.options and back.recipe.options["rescale"] == "none"
    tensors = tensors_of(merge.recipe)
    here, there = merge.table.bind(tensors), back.table.bind(tensors)
    method = method_of(config["merge_method"])
    for tensor in tensors:
        wanted = method.arguments(here.at(tensor), names)
        found = method.arguments(there.at(tensor), names)
        part = part_of(merge.recipe, tensor)
        for name, value in wanted.items():
            if not isinstance(value, tuple):
                assert found[name] == value
                continue
            for n, model in enumerate(merge.recipe.inputs):
                if part is not None and model.name not in part.inputs:
                    continue
                divided = by_density and name == "weight" and _paper(merge)
                assert found[name][order[n]] == value[n] / (wanted["density"][n] if divided else 1)


def _paper(merge: Merge) -> bool:
    method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
    return {**method.options, **merge.recipe.options}["rescale"] == "paper"


def dare(models: Path) -> Merge:
    inputs = (Input("first", str(models / "math")), Input("second", str(models / "code")))
    recipe = Recipe(Input("base", str(models / "base")), inputs, "dare_linear")
    values = {"weight": np.array([[0.3, 0.7]]), "density": np.array([[0.3, 0.9]])}
    return Merge(recipe, CoefficientTable({"all": ("*",)}, values), seed=7)


def bytes_of(merge: Merge, folder: Path) -> bytes:
    materialize(merge, folder)
    return (folder / "model.safetensors").read_bytes()


def test_the_weights_are_the_same_bytes_though_masks_depend_on_names_and_seed(models: Path, tmp_path: Path) -> None:
    merge = dare(models)
    wanted = bytes_of(merge, tmp_path / "native")
    back = read_mergekit(tmp_path / "native" / "mergekit_config.yml")
    assert bytes_of(back, tmp_path / "again") == wanted
    assert back.recipe.fingerprint == merge.recipe.fingerprint
    text = (tmp_path / "native" / "mergekit_config.yml").read_text()
    (tmp_path / "native" / "bare.yml").write_text(text[: text.index("evomerge:")])
    assert bytes_of(read_mergekit(tmp_path / "native" / "bare.yml"), tmp_path / "bare") != wanted


def test_coefficients_changed_by_hand_count_and_names_stay(models: Path, tmp_path: Path) -> None:
    merge = dare(models)
    config = yaml.safe_load(dump(merge))
    config["models"][1]["parameters"]["weight"] = 0.5
    (tmp_path / "edited.yml").write_text(yaml.safe_dump(config))
    back = read_mergekit(tmp_path / "edited.yml")
    assert (back.recipe, back.seed) == (merge.recipe, 7)
    assert back.table.values["weight"].tolist() == [[0.3, 0.5 * 0.9]]


@pytest.mark.parametrize("change", ["model", "option", "dtype"])
def test_other_keys_changed_by_hand_win(models: Path, tmp_path: Path, change: str) -> None:
    config = yaml.safe_load(dump(dare(models)))
    if change == "model":
        config["models"][1]["model"] = str(models / "chat")
    elif change == "option":
        config["parameters"]["normalize"] = True
    else:
        config["out_dtype"] = "float16"
    (tmp_path / "edited.yml").write_text(yaml.safe_dump(config))
    notes: list[str] = []
    back = read_mergekit(tmp_path / "edited.yml", note=notes.append)
    if change == "dtype":
        assert (back.recipe.dtype, back.recipe.inputs, notes) == ("float16", dare(models).recipe.inputs, [])
        return
    assert "no longer matches" in notes[0]
    assert (back.recipe.inputs[0].name, back.recipe.options["rescale"], back.seed) == ("math", "none", 0)
