"""Strict YAML: what is read as what, what is refused and where, and there and back."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evaluators import _strict_yaml as strict_yaml
from evaluators._strict_yaml import StrictYamlError, dump, load

SCALARS = [
    ("1e-3", 0.001),
    ("-.5", -0.5),
    ("5.", 5.0),
    ("+1.5E+2", 150.0),
    ("010", 10),
    ("0x1F", 31),
    ("0o17", 15),
    ("-7", -7),
    ("1_000", "1_000"),
    ("true", True),
    ("False", False),
    ("yes", "yes"),
    ("off", "off"),
    ("07:30", "07:30"),
    ("2024-01-31", "2024-01-31"),
    ("~", None),
    ("", None),
    ("null", None),
    ("'1e-3'", "1e-3"),
    ("=", "="),
    ("1e", "1e"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    data = load(f"a: {text}").data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_keys_are_always_text() -> None:
    assert load("1: a\ntrue: b\n'<<': c").data == {"1": "a", "true": "b", "<<": "c"}


REFUSED = [
    ("a: 1\nb: 2\na: 3", "f.yaml:3: duplicate key 'a' (first at line 1)"),
    ("x:\n  - {t: 1, t: 2}", "f.yaml:2: duplicate key 't' (first at line 2)"),
    ("a: 1\nx: !!python/object:os.system {}", "f.yaml:2: tag 'tag:yaml.org,2002:python/object:os.system'"),
    ("a: !function my.fn", "f.yaml:1: tag '!function'"),
    ("a: !!str 1", "f.yaml:1: tag"),
    ("a: .nan", "f.yaml:1: .nan is not a finite number"),
    ("a: 1\nb: -.inf", "f.yaml:2: -.inf is not a finite number"),
    ("a: 1e999", "f.yaml:1: 1e999 is not a finite number"),
    ("a: " + "9" * 5000, "f.yaml:1: a number of 5000 characters"),
    (
        "a: 1\nb: [1,\n  2\nc: 3\nd: 4",
        "f.yaml:2: not valid YAML: expected ',' or ']', but got ':' in line 4; is the bracket",
    ),
    (
        "a: 1\nb: {x: 1\nc: 3\nd: 4",
        "f.yaml:2: not valid YAML: expected ',' or '}', but got ':' in line 3; is the bracket",
    ),
    ("a: [1,\n\n\n", "f.yaml:1: not valid YAML"),
    ("a: 1\nb: 'x\nc: 1\n", "f.yaml:2: not valid YAML: found unexpected end of stream in line 4; is the quote that"),
    ("a: 1\nb: {c: [1, 2}\n", "f.yaml:2: not valid YAML: expected ',' or ']', but got '}'."),
    ("a: 1\n---\nb: 2", "f.yaml:3: another YAML document"),
    ("ok: 1\na: \x00", "f.yaml:2: character"),
    ("? [1]\n: 2", "f.yaml:1: a key must be text"),
    ("a: *nowhere", "f.yaml:1: not valid YAML"),
    ("a: &x [*x]", "f.yaml:1: aliases expand"),
    ("[" * 33 + "]" * 33, "f.yaml:1: nested deeper than 32"),
    ("a: &x 1\nb: [" + "*x, " * 51 + "]", "f.yaml:2: more than 50 aliases"),
    ("a: 1\n<<: c", "f.yaml:2: the merge key '<<' takes a mapping or a list of mappings"),
    ("a: 1\n<<: [{b: 1}, c]", "f.yaml:2: the merge key '<<' takes a mapping or a list of mappings"),
    ("<<: {a: 1}\n<<: {b: 1}", "f.yaml:2: duplicate key '<<' (first at line 1)"),
    ("a: &a\n  <<: {b: 1, b: 2}", "f.yaml:2: duplicate key 'b' (first at line 2)"),
    ("a: &a\n  <<: *a", "f.yaml:1: a mapping is merged into itself"),
    ("a" * (strict_yaml.MAX_BYTES + 1), "f.yaml: the file has 1000001 bytes"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
@pytest.mark.fault("F30", "tags, keys twice, depth, size", "refused with the line")
def test_what_is_not_plain_data_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(StrictYamlError) as error:
        load(text, source="f.yaml")
    assert str(error.value).startswith(message)


@pytest.mark.fault("F30", "aliases that expand to billions of values", "refused at once")
def test_an_alias_bomb_within_the_alias_limit_is_refused() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 6)}]" for n in range(1, 9)]
    with pytest.raises(StrictYamlError, match="aliases expand to more than"):
        load("a0: &a0 [x, x, x, x, x, x]\n" + "\n".join(levels))


MERGES = """
a: &a {x: 1, y: {z: 2}}
b: &b {y: 3, w: 4}
one: {<<: *a, x: 5}
after: {x: 5, <<: *a}
list: {<<: [*a, *b], v: 6}
nested: &n {<<: *b, w: 7}
twice: {<<: *n}
inline: {<<: {<<: *a}, q: 8}
quoted: {"<<": 9}
empty: {<<: {}}
"""


def test_merge_keys_are_resolved_as_pyyaml_resolves_them() -> None:
    found = load(MERGES).data
    expected = yaml.safe_load(MERGES)
    assert json.dumps(found) == json.dumps(expected)  # with the order of the keys
    assert found["list"] == {"x": 1, "y": {"z": 2}, "w": 4, "v": 6}


def test_merged_values_know_the_line_on_which_they_are_written() -> None:
    document = load(MERGES, source="f")
    assert document.where("one", "y", "z") == "f:2"
    assert document.where("twice", "w") == "f:7"
    assert document.where("list", "w") == "f:3"


def test_merge_bombs_are_refused_or_cost_nothing() -> None:
    levels = [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 26)]
    data = load("a0: &a0 {x: 1, y: 2}\n" + "\n".join(levels)).data  # 2^25 merges, if each were made anew
    assert data["a25"] == {"x": 1, "y": 2}
    wide = "{" + ", ".join(f"k{n}: 1" for n in range(20_000)) + "}"
    with pytest.raises(StrictYamlError, match="aliases expand to more than"):
        load(f"a: &a {wide}\n" + "\n".join(f"b{n}: {{<<: *a}}" for n in range(50)))


def test_fifty_aliases_and_depth_32_are_taken() -> None:
    text = "a: &x 1\nb: [" + ", ".join(["*x"] * 50) + "]"
    assert load(text).data["b"] == [1] * 50
    assert load("[" * 32 + "]" * 32).data is not None


def test_every_value_knows_its_line() -> None:
    document = load("base: b\ntasks:\n  add:\n    file: x\n    n: [1,\n      2]\n", source="s.yaml")
    assert document.where("tasks", "add", "file") == "s.yaml:4"
    assert document.where("tasks", "add", "n", 1) == "s.yaml:6"
    assert document.where("tasks", "add", "not there") == "s.yaml:3"
    assert document.where("nothing", "at all") == "s.yaml:1"


def test_an_empty_text_is_none() -> None:
    assert load("# nothing\n").data is None


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LEAVES = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | FLOATS | TEXTS
DATA = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))


@given(DATA)
def test_there_and_back_is_identity(data: object) -> None:
    assert repr(load(dump(data)).data) == repr(data)
    assert repr(load(dump(data, inline=True)).data) == repr(data)


@pytest.mark.parametrize("text", ["1e-3", "yes", "12:30", "2024-01-31", "0o7", "<<", "", "~", "null", "1_000"])
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert dump(text, inline=True) == f"'{text}'"


def test_a_format_may_let_tags_through_and_read_scalars_its_own_way() -> None:
    def shout(node: yaml.ScalarNode) -> str:
        if node.value == "no":
            raise ValueError("no is refused")
        return f"{node.tag} {node.value}" if node.tag == "!function" else node.value.upper()

    assert load("a: [!function f.g, x]", tags=("!function",), scalar=shout).data == {"a": ["!function f.g", "X"]}
    for text, message in (
        ("b: 1\na: no", "f:2: no is refused"),
        ("a: !function {}", "f:1: tag"),
        ("a: !x y", "f:1: tag"),
    ):
        with pytest.raises(StrictYamlError, match=message):
            load(text, source="f", tags=("!function",), scalar=shout)


@given(st.text(max_size=60))
def test_whatever_the_text_it_is_read_or_refused(text: str) -> None:
    try:
        load(text)
    except StrictYamlError as error:
        assert str(error).startswith("data")  # noqa: PT017 - most texts are fine


SIMPLE = st.one_of(
    st.text("abcxyzENY0123456789_./+-", min_size=1, max_size=100),
    st.sampled_from(["yes", "1e3", "0x1f", "null", "---", "...", "1_000", "-", ".", "1.", "2020-01-01", "x" * 100]),
)
SIMPLE_DATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), SIMPLE),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(SIMPLE, inner)),
    max_leaves=12,
)


@given(st.one_of(st.lists(SIMPLE_DATA), st.dictionaries(SIMPLE, SIMPLE_DATA)))
def test_simple_data_has_the_same_text_with_and_without_libyaml(data: object) -> None:
    assert strict_yaml._is_simple(data)
    texts = [
        yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
        for dumper in (strict_yaml._Dumper, strict_yaml._FastDumper)
    ]
    assert texts[0] == texts[1] == dump(data)


@pytest.mark.parametrize("data", ["text", {"": 1}, {"a": "\U0001f600"}, ["x" * 101], {"a": ["b c"]}])
def test_what_libyaml_may_write_otherwise_is_left_to_pyyaml(data: object) -> None:
    assert not strict_yaml._is_simple(data)
