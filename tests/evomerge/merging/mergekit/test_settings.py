"""mergekit's parameter values: every number here follows from its documentation by hand."""

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.merging.mergekit.configuration import InteropError
from evomerge.merging.mergekit.methods import Kind
from evomerge.merging.mergekit.settings import Setting, read_setting
from evomerge.yaml.reader import Reader


def setting(text: str, kind: Kind = "number") -> Setting:
    document = strict_yaml.load(f"value: {text}", source="file.yml")
    return read_setting(Reader(document, InteropError), document.data["value"], ("value",), kind)


@pytest.mark.parametrize(
    ("text", "depth", "value"),
    [
        ("0.3", 0.7, 0.3),
        ("'1e-3'", 0.0, 0.001),
        ("true", 0.0, 1.0),
        ("[0.25]", 0.5, 0.25),
        ("[0, 1]", 0.25, 0.25),
        ("[0, 0.5, 1]", 0.5, 0.5),
        ("[1, 3, 2]", 0.25, 2.0),
        ("[1, 3, 2]", 0.75, 2.5),
        ("[1, 3, 2]", 1.0, 2.0),
        ("{value: [0, 4], filter: mlp}", 0.5, 2.0),
        ("{value: 4, filter: attn}", 0.5, None),
        ("[{filter: up, value: 1}, {filter: mlp, value: 2}, {value: 3}]", 0.0, 1.0),
        ("[{filter: '*', value: 2}, {filter: mlp, value: 1}]", 0.0, 2.0),
        ("[{filter: MLP, value: 2}]", 0.0, None),
        ("[{filter: mlp, value: []}, {value: 1}]", 0.0, None),
        ("[]", 0.0, None),
    ],
)
def test_the_value_for_a_tensor(text: str, depth: float, value: float | None) -> None:
    assert setting(text).at("model.layers.1.mlp.up_proj.weight", depth) == value


@pytest.mark.parametrize(("depth", "value"), [(0.0, True), (0.49, True), (0.5, False), (0.99, False), (1.0, True)])
def test_flags_along_the_layers_are_steps(depth: float, value: bool) -> None:
    assert setting("[yes, 0, 'True']", "flag").at("x", depth) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("1", "1.0", "1e0", "true", "'1'", "yes", "'T'")),
        *((text, False) for text in ("0", "0.0", "-0.0", "false", "'0'", "off", "'F'")),
    ],
)
def test_booleans_as_numbers(text: str, value: bool) -> None:
    assert setting(text, "flag").at("x", 0.0) is value


@pytest.mark.parametrize("text", ["2", "-1", "0.5", "1.5", "1.0e-3", "null", "[[1]]", "{value: [1.0, 0.5]}", "'1.0'"])
def test_other_values_are_no_booleans(text: str) -> None:
    with pytest.raises(InteropError, match=r"expected true or false \(or 1, 0\); got "):
        setting(text, "flag")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("much", "number", "file.yml:1: value: expected a number; got 'much'"),
        ("null", "number", "expected a number; got None"),
        ("[1, [2]]", "number", r"value.1: expected a number; got \[2\]"),
        ("[1, {value: 2}]", "number", "value.0: expected a mapping; got 1"),
        ("{value: {value: 1}}", "number", "value.value: expected a number"),
        ("{values: 1}", "number", "value.values: unknown key 'values'; did you mean 'value'"),
        ("{filter: mlp}", "number", "an entry with a filter needs a `value`"),
        ("0.5", "flag", r"expected true or false \(or 1, 0\); got 0.5"),
        ("{value: maybe}", "flag", r"value.value: expected true or false \(or 1, 0\); got 'maybe'"),
    ],
)
def test_refusals(text: str, kind: Kind, message: str) -> None:
    with pytest.raises(InteropError, match=message):
        setting(text, kind)
