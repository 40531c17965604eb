"""Strict YAML: what is read as what, what is refused and where, and there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge import strict_yaml
from evomerge.strict_yaml import StrictYamlError, dump, load

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
    assert load("1: a\ntrue: b\n<<: c").data == {"1": "a", "true": "b", "<<": "c"}


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
    ("a: [1,\n", "f.yaml:2: not valid YAML"),
    ("a: 1\n---\nb: 2", "f.yaml:2: not valid YAML"),
    ("ok: 1\na: \x00", "f.yaml:2: character"),
    ("? [1]\n: 2", "f.yaml:1: a key must be text"),
    ("a: *nowhere", "f.yaml:1: not valid YAML"),
    ("a: &x [*x]", "f.yaml:1: aliases expand"),
    ("[" * 33 + "]" * 33, "f.yaml:1: nested deeper than 32"),
    ("a: &x 1\nb: [" + "*x, " * 51 + "]", "f.yaml:2: more than 50 aliases"),
    ("a" * (strict_yaml.MAX_BYTES + 1), "f.yaml: 1000001 bytes are too many"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_not_plain_data_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(StrictYamlError) as error:
        load(text, source="f.yaml")
    assert str(error.value).startswith(message)


def test_an_alias_bomb_within_the_alias_limit_is_refused() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 6)}]" for n in range(1, 9)]
    with pytest.raises(StrictYamlError, match="aliases expand to more than"):
        load("a0: &a0 [x, x, x, x, x, x]\n" + "\n".join(levels))


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


@given(st.text(max_size=60))
def test_whatever_the_text_it_is_read_or_refused(text: str) -> None:
    try:
        load(text)
    except StrictYamlError as error:
        assert str(error).startswith("data")  # noqa: PT017 - most texts are fine
