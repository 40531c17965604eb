from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merging.mergekit.write import InteropError, dump, to_mergekit
from evomerge.recipe import Input, Merge, Recipe, Slice, TokenRow, Vocabulary
from search_spaces.base import CoefficientTable

BASE, MATH, CODE = Input("base", "models/base"), Input("math", "models/math"), Input("code", "models/code")
NAMES = (
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(
        f"model.layers.{n}.{part}.weight"
        for n in (0, 1, 3, 10, 35)
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "norm")
    ),
    "model.norm.weight",
)


def merge(method: str, values: Mapping[str, Any], groups: Mapping[str, Sequence[str]], **changes: Any) -> Merge:
    recipe = Recipe(BASE, (MATH, CODE), method, **changes)
    arrays = {name: np.array(value, dtype=float) for name, value in values.items()}
    return Merge(recipe, CoefficientTable({name: tuple(members) for name, members in groups.items()}, arrays))


def chosen(setting: Any, tensor: str) -> Any:
    """The value that mergekit's documentation promises for a tensor: the first filter that is a substring."""
    if not isinstance(setting, list):
        return setting
    return next(rule["value"] for rule in setting if rule.get("filter", "*") == "*" or rule["filter"] in tensor)


def by_block() -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in NAMES:
        groups.setdefault(name.split(".")[2] if ".layers." in name else "rest", []).append(name)
    return groups


def test_a_single_group_is_written_as_a_number() -> None:
    config = to_mergekit(merge("task_arithmetic", {"weight": [[0.5, 0.25]], "scale": [[1.5]]}, {"all": ["*"]}))
    assert config == {
        "merge_method": "task_arithmetic",
        "base_model": "models/base",
        "models": [
            {"model": "models/math", "parameters": {"weight": 0.5}},
            {"model": "models/code", "parameters": {"weight": 0.25}},
        ],
        "parameters": {"normalize": False, "lambda": 1.5},
        "dtype": "float32",
    }


def test_blocks_are_filters_that_end_with_a_dot() -> None:
    groups = by_block()
    weight = [[n, -n] for n in range(1, len(groups) + 1)]
    config = to_mergekit(merge("task_arithmetic", {"weight": weight}, groups))
    rules = config["models"][0]["parameters"]["weight"]
    assert {"filter": "layers.3.", "value": 4.0} in rules
    assert len(rules) < 10, "a block is one rule, not one for each tensor"
    for (_, members), values in zip(groups.items(), weight, strict=True):
        for name in members:
            assert [chosen(m["parameters"]["weight"], name) for m in config["models"]] == values


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_assignment_of_values_is_expressed(data: st.DataObject) -> None:
    part = st.sampled_from(["a", "b", "ab", "1", "11", "model", "layers"])
    names = data.draw(st.lists(st.lists(part, min_size=1, max_size=4).map(".".join), min_size=1, unique=True))
    values = {name: float(data.draw(st.integers(0, 2))) for name in names}
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(str(value), []).append(name)
    weight = [[float(group), 1] for group in groups]
    setting = to_mergekit(merge("linear", {"weight": weight}, groups))["models"][0]["parameters"]["weight"]
    assert {name: chosen(setting, name) for name in names} == values


def test_linear_has_no_base() -> None:
    config = to_mergekit(merge("linear", {"weight": [[1, 3]]}, {"all": ["*"]}))
    assert "base_model" not in config
    assert config["parameters"] == {"normalize": True}


def test_slerp_lists_the_base_first_and_shares_t() -> None:
    made = merge("slerp", {"t": [[0.25], [0.75]]}, {"norm": NAMES[-1:], "rest": NAMES[:-1]})
    config = to_mergekit(replace(made, recipe=replace(made.recipe, inputs=(MATH,))))
    assert config["models"] == [{"model": "models/base"}, {"model": "models/math"}]
    assert config["base_model"] == "models/base"
    assert chosen(config["parameters"]["t"], "model.norm.weight") == 0.25
    assert chosen(config["parameters"]["t"], "model.layers.0.norm.weight") == 0.75


def test_ties_with_what_the_table_leaves_to_the_method() -> None:
    config = to_mergekit(merge("ties", {"weight": [[1, 2]]}, {"all": ["*"]}, options={"normalize": False}))
    assert config["models"][1]["parameters"] == {"weight": 2.0, "density": 0.5}
    assert config["parameters"] == {"normalize": False, "rescale": False, "lambda": 1.0}


def test_dare_divides_by_the_density_as_the_paper_does() -> None:
    values = {"weight": [[1, 2]], "density": [[0.5, 0.25]]}
    config = to_mergekit(merge("dare_linear", values, {"all": ["*"]}))
    assert [model["parameters"]["weight"] for model in config["models"]] == [2.0, 8.0]
    assert config["parameters"]["rescale"] is False
    config = to_mergekit(merge("dare_linear", values, {"all": ["*"]}, options={"rescale": "mergekit"}))
    assert [model["parameters"]["weight"] for model in config["models"]] == [1.0, 2.0]
    assert config["parameters"]["rescale"] is True


def test_passthrough_scales_its_one_model() -> None:
    made = merge("passthrough", {"scale": [[0.5]]}, {"all": ["*"]})
    config = to_mergekit(replace(made, recipe=replace(made.recipe, inputs=(MATH,))))
    assert config["models"] == [{"model": "models/math", "parameters": {"scale": 0.5}}]
    assert "parameters" not in config


def test_types_revisions_and_tokenizers() -> None:
    matched = Vocabulary(missing="inputs")
    made = merge("linear", {"weight": [[1, 1]]}, {"all": ["*"]}, tokenizer="code", vocabulary=matched)
    made = replace(made, recipe=replace(made.recipe, inputs=(MATH, Input("code", "org/code", "v1"))))
    config = to_mergekit(made, out_dtype="float16")
    assert (config["dtype"], config["out_dtype"]) == ("float32", "float16")
    assert config["models"][1]["model"] == "org/code@v1"
    assert config["tokenizer"] == {"source": "org/code@v1"}
    made = replace(made, recipe=replace(made.recipe, dtype="bfloat16"))
    assert to_mergekit(made, out_dtype="float16")["out_dtype"] == "bfloat16"


def test_models_are_named_as_their_authors_do() -> None:
    commit = "4d7a" * 10
    inputs = (
        Input("cached", f"cache/huggingface/hub/models--org--code/snapshots/{commit}"),
        Input("tuned", "org/math", "v2", adapter="runs/lora"),
        Input("signs", "runs/a+b@c", adapter="runs/l"),
    )
    made = merge("linear", {"weight": [[1, 1, 1]]}, {"all": ["*"]})
    config = to_mergekit(replace(made, recipe=replace(made.recipe, inputs=inputs)))
    assert [entry["model"] for entry in config["models"]] == [
        f"org/code@{commit}",
        "org/math@v2+runs/lora",
        {"model": {"path": "runs/a+b@c"}, "lora": {"path": "runs/l"}},
    ]


def test_a_vocabulary_with_exceptions() -> None:
    rules = {
        "<a>": TokenRow(),
        "<b>": TokenRow("math"),
        "<c>": TokenRow("base", token="<d>"),
        "<e>": TokenRow("code", id=7, force=True),
    }
    made = merge("ties", {"weight": [[1, 1]]}, {"all": ["*"]})
    vocabulary = Vocabulary(multiple_of=64, tokens=rules)
    made = replace(made, recipe=replace(made.recipe, tokenizer="union", vocabulary=vocabulary, chat_template="{{ x }}"))
    config = to_mergekit(made)
    assert config["chat_template"] == "{{ x }}"
    assert config["tokenizer"] == {
        "source": "union",
        "tokens": {
            "<a>": {"source": {"kind": "zero"}},
            "<b>": {"source": "models/math"},
            "<c>": {"source": {"kind": "model_token", "model": "models/base", "token": "<d>"}},
            "<e>": {"source": {"kind": "model_token", "model": "models/code", "token_id": 7}, "force": True},
        },
        "pad_to_multiple_of": 64,
    }


def test_slices_have_the_tensor_names_of_their_sources() -> None:
    names = [f"model.layers.{n}.{part}.weight" for n in range(3) for part in ("mlp", "norm")]
    groups = {"mlp": [name for name in names if "mlp" in name], "rest": [name for name in names if "norm" in name]}
    slices = (Slice(1, ("base", 0), {"math": 4}), Slice(2, ("code", 2), {"math": 0, "code-2": 6}))
    inputs = (MATH, CODE, Input("code-2", "models/other"))
    weight = [[0.5, 0, 0.25], [0.75, 0, 0.25]]
    made = merge("task_arithmetic", {"weight": weight, "scale": [[1], [2]]}, groups)
    config = to_mergekit(replace(made, recipe=replace(made.recipe, inputs=inputs, slices=slices)))
    first, second = config["slices"]
    assert [(s["model"], s["layer_range"]) for s in first["sources"]] == [
        ("models/base", [0, 1]),
        ("models/math", [4, 5]),
    ]
    assert [s["layer_range"] for s in second["sources"]] == [[2, 4], [0, 2], [6, 8]]
    assert second["base_model"] == "models/code"
    assert "base_model" not in first
    math = first["sources"][1]["parameters"]["weight"]
    assert (chosen(math, "model.layers.4.mlp.weight"), chosen(math, "model.layers.4.norm.weight")) == (0.5, 0.75)
    assert chosen(second["parameters"]["lambda"], "model.layers.1.norm.weight") == 2
    assert second["sources"][2]["parameters"] == {"weight": 0.25}
    assert config["parameters"] == {"normalize": False}


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("my_lab.methods:own", {}, "mergekit has no equivalent of the method 'my_lab.methods:own'"),
        ("ties", {"options": {"compat": "peft"}}, "mergekit's ties cannot express compat: 'peft'"),
        ("dare_ties", {"options": {"election": "frequency"}}, "cannot express election: 'frequency'"),
        ("dare_ties", {"options": {"normalize": True}}, r"normalize with DARE's own rescaling \(rescale: paper\)"),
        (
            "linear",
            {"inputs": (MATH, Input("x", "models/math"))},
            "a model only once, but this merge has 'models/math'",
        ),
        ("ties", {"inputs": (MATH, Input("x", "models/base"))}, "a model only once, but this merge has 'models/base'"),
        ("linear", {"tokenizer": "union"}, "linear cannot express vocabulary.missing: 'base'"),
        ("ties", {"tokenizer": "union", "vocabulary": Vocabulary(missing="mean")}, "vocabulary.missing: 'mean'"),
        ("ties", {"slices": (Slice(1, ("base", 0), {"math": 0}),)}, "cannot list a model that is in no slice: 'code'"),
    ],
)
def test_says_what_cannot_be_expressed(method: str, changes: dict[str, Any], message: str) -> None:
    made = merge(method, {"weight": [[1, 1]]}, {"all": ["*"]})
    with pytest.raises(InteropError, match=message):
        to_mergekit(replace(made, recipe=replace(made.recipe, **changes)))


def test_patterns_need_tensor_names() -> None:
    made = merge("linear", {"weight": [[1, 1], [1, 2]]}, {"mlp": ["*.mlp.*"], "rest": ["*"]})
    with pytest.raises(InteropError, match=r"pattern '\*\.mlp\.\*' is unsupported in mergekit: bind the table"):
        to_mergekit(made)
    bound = replace(made, table=made.table.bind(NAMES))
    setting = to_mergekit(bound)["models"][1]["parameters"]["weight"]
    assert [chosen(setting, name) for name in NAMES] == [1 + (".mlp." not in name) for name in NAMES]


def test_the_text_is_read_by_an_ordinary_yaml_reader_bit_for_bit() -> None:
    groups = by_block()
    weight = np.random.default_rng(0).random((len(groups), 2)) * 1e-7
    made = merge("dare_linear", {"weight": weight, "density": np.ones((len(groups), 2))}, groups)
    text = dump(made)
    read = yaml.safe_load(text)
    assert read.pop("evomerge")["seed"] == 0
    assert read == to_mergekit(made)
    assert "mergekit draws other random masks" in text
    assert "random masks" not in dump(merge("linear", {"weight": weight}, groups))


@pytest.mark.parametrize("method", ["linear", "passthrough"])
def test_slices_name_the_base_whose_configuration_the_result_has(method: str) -> None:
    values = {"linear": {"weight": [[1, 1]]}, "passthrough": {"scale": [[1, 1]]}}[method]
    slices = (Slice(1, ("math", 0), {"math": 0}), Slice(2, ("code", 2), {"code": 2}))
    config = to_mergekit(merge(method, values, {"all": ["*"]}, slices=slices))
    assert config["base_model"] == "models/base"
    assert [[source["model"] for source in part["sources"]] for part in config["slices"]] == [
        ["models/math"],
        ["models/code"],
    ]
