"""Recipe files: there and back bit for bit, short ones by hand, and what is refused where."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators import _strict_yaml as strict_yaml
from evomerge.recipe import Input, Merge, Recipe, RecipeError
from evomerge.recipe.file import merge_from_dict, merge_to_dict, read_merge, write_merge
from search_spaces.base import CoefficientTable

NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)


@st.composite
def merges(draw: st.DrawFn) -> Merge:
    names = draw(st.lists(NAMES.filter(lambda name: name != "base"), min_size=1, max_size=3, unique=True))
    groups = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    floats = st.floats(allow_nan=False, allow_infinity=False)
    values = {}
    for parameter, width in draw(st.dictionaries(NAMES, st.sampled_from([1, len(names)]), max_size=2)).items():
        row = st.lists(floats, min_size=width, max_size=width)
        values[parameter] = np.array(draw(st.lists(row, min_size=len(groups), max_size=len(groups))))
    table = CoefficientTable({group: (f"tensor.{n}", f"*.{n}.*") for n, group in enumerate(groups)}, values)
    options = draw(st.dictionaries(NAMES, st.booleans() | floats | NAMES, max_size=2))
    inputs = tuple(Input(name, f"/models/{n}", draw(st.none() | NAMES)) for n, name in enumerate(names))
    dtype = draw(st.sampled_from([None, "float32", "bfloat16", "float16"]))
    tokenizer = draw(st.sampled_from(["base", *names]))
    recipe = Recipe(Input("base", "/models/base"), inputs, "ties", options, dtype, tokenizer)
    return Merge(recipe, table, draw(st.integers(0, 2**63)))


@given(merges())
def test_a_merge_survives_yaml_bit_for_bit(merge: Merge) -> None:
    data = strict_yaml.load(strict_yaml.dump(merge_to_dict(merge))).data
    back = merge_from_dict(data)
    assert back.recipe == merge.recipe
    assert back.recipe.fingerprint == merge.recipe.fingerprint
    assert back.seed == merge.seed
    assert dict(back.table.groups) == dict(merge.table.groups)
    for name, values in merge.table.values.items():
        assert back.table.values[name].tobytes() == values.tobytes()


SHORT = """\
evomerge: 1
base: models/base
inputs: {math: models/a, code: ../b}
method: task_arithmetic
coefficients: {weight: [0.4, 1e-3]}
"""


def read(tmp_path: Path, text: str) -> Merge:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_merge(tmp_path / "recipe.yaml")


def test_a_short_recipe_by_hand(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "a").mkdir()
    merge = read(tmp_path, SHORT)
    assert merge.recipe.base == Input("base", str(tmp_path / "models/base"))
    assert merge.recipe.inputs == (
        Input("math", str(tmp_path / "models/a")),
        Input("code", str(tmp_path.parent / "b")),
    )
    assert (merge.recipe.options, merge.recipe.dtype, merge.seed) == ({}, None, 0)
    assert dict(merge.table.groups) == {"all": ("*",)}
    assert merge.table.values["weight"].tolist() == [[0.4, 0.001]]


def test_paths_are_relative_to_the_recipe_and_not_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(SHORT, encoding="utf-8")
    for name in ("elsewhere", "models/base", "models/a"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_merge(Path("../recipe.yaml")).recipe.base.path == str(tmp_path / "models/base")


def test_a_model_with_a_revision_is_a_name_of_the_hub(tmp_path: Path) -> None:
    text = SHORT.replace("base: models/base", "base: {path: owner/name, revision: main}")
    assert read(tmp_path, text).recipe.base == Input("base", "owner/name", "main")


@pytest.mark.parametrize(
    ("coefficients", "rows"),
    [
        ("{weight: 0.5}", [[0.5]]),
        ("{weight: {code: 2, math: 1}}", [[1.0, 2.0]]),
        ("{weight: [3]}", [[3.0]]),
    ],
)
def test_forms_of_a_coefficient(tmp_path: Path, coefficients: str, rows: list[list[float]]) -> None:
    text = SHORT.replace("{weight: [0.4, 1e-3]}", coefficients)
    assert read(tmp_path, text).table.values["weight"].tolist() == rows


def test_groups_with_patterns_take_one_value_each_or_one_for_all(tmp_path: Path) -> None:
    text = SHORT.replace(
        "coefficients: {weight: [0.4, 1e-3]}",
        "groups: {low: 'model.layers.0.*', rest: ['*']}\n"
        "coefficients:\n  weight: {rest: 0.5, low: {math: 1, code: 2}}\n  density: 0.25",
    )
    table = read(tmp_path, text).table
    assert dict(table.groups) == {"low": ("model.layers.0.*",), "rest": ("*",)}
    assert table.values["weight"].tolist() == [[1.0, 2.0], [0.5, 0.5]]
    assert table.values["density"].tolist() == [[0.25], [0.25]]


def test_a_written_recipe_reads_back_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = (Input("a", "models/a"), Input("b", "owner/b", "main"))
    table = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.1, 1 / 3]])})
    merge = Merge(Recipe(Input("base", "models/base"), inputs, "linear"), table, seed=7)
    (tmp_path / "out").mkdir()
    write_merge(merge, tmp_path / "out" / "recipe.yaml")
    back = read_merge(tmp_path / "out" / "recipe.yaml")
    assert back.recipe.inputs == (Input("a", str(tmp_path / "models/a")), Input("b", "owner/b", "main"))
    assert (back.table, back.seed) == (merge.table, 7)


REFUSED = [
    (("evomerge: 1\n", ""), ":1: a recipe needs `evomerge`, version 1."),
    (("evomerge: 1", "evomerge: 2"), ":1: evomerge: format 2 is unknown; this version reads 1."),
    (("method: task", "methd: task"), ":4: methd: unknown key 'methd'; did you mean 'method'?"),
    (("method: task_arithmetic", "method: 3"), ":4: method: expected text; got 3."),
    (("method:", "base: again\nmethod:"), ":4: duplicate key 'base' (first at line 2)."),
    (("[0.4, 1e-3]", "[0.4]\n  t: 1"), ":5: not valid YAML: expected ',' or '}', but got '<scalar>' in line 6;"),
    (("[0.4, 1e-3]", "[1, 2, 3]"), ":5: coefficients.weight: expected 2 numbers, one for each of math, code; got 3."),
    (("[0.4, 1e-3]", "[0.4, yes]"), ":5: coefficients.weight.1: expected a number; got 'yes'."),
    (("[0.4, 1e-3]", "[0.4, true]"), ":5: coefficients.weight.1: expected a number; got True."),
    (("[0.4, 1e-3]", "{math: 1}"), ":5: coefficients.weight: code missing."),
    (("[0.4, 1e-3]", "{math: 1, cod: 2}"), "did you mean 'code'?"),
    (("{math: models/a, code: ../b}", "{base: models/a}"), ":3: inputs: Models need distinct names"),
    (("{math: models/a, code: ../b}", "[]"), ":3: inputs: A recipe needs at least one model"),
    (("{math: models/a, code: ../b}", "7"), ":3: inputs: inputs must be a list or a mapping of models; it is 7."),
    (("method:", "dtype: float64\nmethod:"), ":4: dtype: expected one of 'float32', 'bfloat16', 'float16'"),
    (
        ("method:", "tokenizer: mth\nmethod:"),
        ":4: tokenizer: expected one of 'base', 'union', 'math', 'code'; got 'mth'.",
    ),
    (("method:", "seed: -1\nmethod:"), ":4: seed: expected a whole number, at least 0; got -1."),
    (("method:", "groups: {a: ['*'], b: ['*']}\nmethod:"), ":6: coefficients: "),
    (("method:", "groups: {a: [1]}\nmethod:"), ":4: groups.a.0: expected text; got 1."),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_mistakes_are_refused_with_their_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in SHORT
    with pytest.raises(RecipeError) as error:
        read(tmp_path, SHORT.replace(*change))
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "recipe.yaml"))


def test_a_file_that_is_not_there_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist: expected a recipe file"):
        read_merge(tmp_path / "nothing.yaml")
