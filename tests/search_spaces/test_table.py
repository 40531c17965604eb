import pickle

import numpy as np
import pytest

from search_spaces.base import CoefficientTable, SpaceError

T = np.array([[0.25], [0.75]])
TABLE = CoefficientTable({"first": ("a", "b"), "rest": ("c",)}, {"t": T, "weight": np.array([[1.0, 2], [3, 4]])})


def test_a_table_is_read_by_tensor() -> None:
    assert TABLE.at("c")["t"].tolist() == [0.75]
    assert TABLE.at("b")["weight"].tolist() == [1.0, 2.0]
    with pytest.raises(KeyError):
        TABLE.at("d")


def test_a_table_cannot_be_written() -> None:
    mine = T.copy()
    table = CoefficientTable({"first": ("a",), "rest": ("b",)}, {"t": mine})
    mine[:] = 9.0
    assert table.values["t"].tolist() == T.tolist()
    with pytest.raises(ValueError, match="read-only"):
        table.values["t"][0, 0] = 1.0
    with pytest.raises(TypeError):
        table.values["t"] = T  # type: ignore[index]


def test_equal_tables_have_the_same_rows_for_the_same_groups() -> None:
    assert pickle.loads(pickle.dumps(TABLE)) == TABLE
    swapped = CoefficientTable({"rest": ("c",), "first": ("a", "b")}, TABLE.values)
    assert swapped != TABLE
    assert CoefficientTable(TABLE.groups, {"t": T}) != TABLE
    assert CoefficientTable(TABLE.groups, dict(TABLE.values) | {"t": T + 1e-16 + 1e-15}) != TABLE


@pytest.mark.parametrize(
    ("groups", "array", "message"),
    [
        ({"x": ("a",), "y": ("a",)}, T, "Tensor 'a' is in two coefficient groups: 'x' and 'y'"),
        ({"x": ("a", "a"), "y": ("b",)}, T, "'x' and 'x'"),
        ({"x": ("a",)}, T, r"n_groups=1.*\(2, 1\)"),
        ({"x": ("a",), "y": ("b",)}, T[:, 0], r"\(2,\)"),
        ({"x": ("a",), "y": ("b",)}, T[:, :0], r"\(2, 0\)"),
        ({"x": ("a",), "y": ("b",)}, T * np.inf, "finite.*inf"),
    ],
)
def test_what_is_no_table_is_refused(groups: dict[str, tuple[str, ...]], array: np.ndarray, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        CoefficientTable(groups, {"t": array})


def test_bind_spells_patterns_out_and_names_win() -> None:
    table = CoefficientTable({"rest": ("*",), "norms": ("*.norm",), "one": ("l.3.q",)}, {"t": np.zeros((3, 1))})
    bound = table.bind(["l.3.q", "l.35.q", "l.3.norm"])
    assert dict(bound.groups) == {"rest": ("l.35.q", "l.3.norm"), "norms": (), "one": ("l.3.q",)}
    with pytest.raises(SpaceError, match=r"'\*\.norm', which no tensor matches"):
        table.bind(["l.3.q"])
    with pytest.raises(SpaceError, match="matches tensor 'd'"):
        TABLE.bind(["a", "b", "c", "d"])


def test_regroup_takes_agreeing_values_exactly_and_averages_on_demand() -> None:
    third = CoefficientTable({"x": ("a", "b", "c"), "y": ("d",)}, {"t": np.array([[0.1], [0.4]])})
    assert third.regroup({"one": ("b", "c", "a"), "two": ("d",)}).values["t"].tolist() == [[0.1], [0.4]]
    mean = third.regroup({"all": ("a", "b", "c", "d")}, average=True)
    assert abs(mean.values["t"][0, 0] - 0.175) < 1e-16
    with pytest.raises(SpaceError, match="group 'all' have different values of 't'"):
        third.regroup({"all": ("a", "b", "c", "d")})
    with pytest.raises(SpaceError, match="'z' is not in the table"):
        third.regroup({"all": ("a", "z")})
