"""What the base does for every space: ranges, frozen and tied groups, the start."""

import numpy as np
import pytest

from search_spaces.base import CoefficientTable, Design, Layout, Parameter, SearchSpace
from search_spaces.blockwise import Blockwise
from search_spaces.layerwise import Layerwise
from tests.contracts.search_space import DEEP, INPUTS, PARAMETERS, SMALL, expect_error

WEIGHT = (Parameter("weight", 0.4, 0.0, 1.0, per_input=True),)


def layerwise(layout: Layout = SMALL, **options: object) -> Layerwise:
    return Layerwise(layout, INPUTS, PARAMETERS, **options)  # type: ignore[arg-type]


def test_coordinates_come_by_parameter_then_depth_then_input() -> None:
    names = layerwise().names
    assert names[:4] == (
        "weight[embedding, math]",
        "weight[embedding, code]",
        "weight[embedding, chat]",
        "weight[block.0, math]",
    )
    assert names[-3:] == ("t[norm]", "t[head]", "t[other]")
    assert len(names) == 9 * (3 + 3 + 1)


def test_a_name_of_a_group_is_not_a_prefix() -> None:
    space = layerwise(DEEP, freeze={"block.3": "default"})
    assert not [name for name in space.names if "[block.3," in name or "[block.3]" in name]
    assert len([name for name in space.names if "[block.3" in name]) == 8 * 7  # block.30 ... block.37


def test_a_pattern_freezes_all_it_matches_and_a_later_one_wins() -> None:
    space = layerwise(freeze={"block.*": {"weight": 0.25}, "block.4": {"weight": [0.1, 0.2, 0.3]}})
    values = space.decode(np.ones(space.dimension)).values["weight"]
    assert values[1:6].tolist() == [[0.25] * 3] * 4 + [[0.1, 0.2, 0.3]]
    assert (values[[0, 6, 7, 8]] == 1.5).all()


def test_frozen_values_may_lie_outside_of_the_range_and_in_a_fixed_parameter() -> None:
    space = layerwise(ranges={"weight": [1, 1], "t": [0.5, 1]}, freeze={"head": {"weight": 0, "t": 0.25}})
    values = space.decode(np.ones(space.dimension)).values
    assert values["weight"][:, 0].tolist() == [1.0] * 7 + [0.0, 1.0]
    assert values["t"][7, 0] == 0.25


def test_a_default_outside_of_the_range_moves_to_the_bound() -> None:
    space = layerwise(ranges={"weight": [0.5, 1.0]})
    assert (space.decode(space.default()).values["weight"] == 0.5).all()


def test_bounds_that_do_not_add_up_in_binary_are_hit_exactly() -> None:
    low, high = -0.3, 0.9
    assert low + (high - low) != high
    space = layerwise(ranges={"weight": [low, high]})
    assert (space.decode(np.ones(space.dimension)).values["weight"] == high).all()
    assert (space.decode(np.zeros(space.dimension)).values["weight"] == low).all()


def test_ties_have_a_slot_named_like_them() -> None:
    space = Blockwise(SMALL, INPUTS, WEIGHT, tie=[["block.*.norm"], ["embedding", "head"]])
    assert space.names[-6:] == (
        *(f"weight[block.*.norm, {name}]" for name in INPUTS),
        *(f"weight[embedding+head, {name}]" for name in INPUTS),
    )
    x = np.full(space.dimension, 0.5)
    x[-3] = 1.0
    values = space.decode(x).values["weight"]
    rows = [space.groups.index(group) for group in ("embedding", "head")]
    assert np.flatnonzero(values[:, 0] == 1.0).tolist() == rows


def test_a_tie_may_be_frozen_as_a_whole_but_not_in_part() -> None:
    both = {"embedding": {"weight": 0.1}, "head": {"weight": 0.2}}
    space = layerwise(tie=[["embedding", "head"]], freeze=both)
    assert [name for name in space.names if "+" in name] == [
        *(f"density[embedding+head, {name}]" for name in INPUTS),
        "t[embedding+head]",
    ]
    expect_error(
        lambda: layerwise(tie=[["embedding", "head"]], freeze={"head": {"weight": 0.2}}),
        "'weight'",
        "'head' is frozen and tied to 'embedding'",
    )


def test_a_group_is_tied_once() -> None:
    expect_error(lambda: layerwise(tie=[["block.*"], ["block.1", "head"]]), "'block.1'", "'block.1+head'")
    expect_error(lambda: layerwise(tie=["embedding", "head"]), "[['embedding', 'head']]")
    expect_error(lambda: layerwise(tie=[[]]), "[[]]")


def test_a_start_with_other_groups_is_taken_over_by_tensors() -> None:
    everywhere = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.1, 0.2, 0.3]])})
    space = layerwise(start=everywhere)
    values = space.decode(space.default()).values
    assert np.abs(values["weight"] - [0.1, 0.2, 0.3]).max() <= 1e-15
    assert (values["density"] == 0.7).all()


def test_a_start_that_differs_inside_a_group_counts_with_its_mean() -> None:
    attention = [name for name in SMALL.names if "layers.2.self_attn" in name]
    rest = [name for name in SMALL.names if name not in attention]
    groups = {"attention": tuple(attention), "rest": tuple(rest)}
    start = CoefficientTable(groups, {"t": np.array([[0.9], [0.1]])})
    space = layerwise(start=start)
    expected = [0.1, 0.1, 0.1, (2 * 0.9 + 2 * 0.1) / 4, 0.1, 0.1, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(space.decode(space.default()).values["t"][:, 0], expected, atol=1e-15)
    tied = layerwise(start=start, tie=[["block.2", "head"]])
    assert abs(tied.decode(tied.default()).values["t"][3, 0] - 0.3) < 1e-15


def test_default_in_freeze_is_the_value_of_the_start() -> None:
    start = CoefficientTable({"all": ("*",)}, {"t": np.array([[0.625]])})
    space = layerwise(start=start, freeze={"block.*": "default"})
    values = space.decode(np.zeros(space.dimension)).values
    assert values["t"][:, 0].tolist() == [0.0] + [0.625] * 5 + [0.0] * 3
    assert values["density"][1].tolist() == [0.7] * 3


def test_a_start_that_does_not_fit_is_refused() -> None:
    def start(name: str, *row: float) -> CoefficientTable:
        return CoefficientTable({"all": ("*",)}, {name: np.array([row])})

    expect_error(lambda: layerwise(start=start("weight", 0.5, 0.5, 9.0)), "'weight'", "9.0", "[-0.5, 1.5]")
    expect_error(lambda: layerwise(start=start("weight", 0.5, 0.5)), "'weight': 2", "'weight': 3")
    expect_error(lambda: layerwise(start=start("densty", 0.5)), "densty")
    fixed = layerwise(start=start("weight", 0.5, 0.5, 9.0), ranges={"weight": [1, 1]})
    assert (fixed.decode(fixed.default()).values["weight"] == 1.0).all()


def test_encode_gives_the_same_table_to_the_last_bit() -> None:
    space = layerwise()
    for seed in range(20):
        table = space.decode(np.random.default_rng(seed).random(space.dimension))
        assert space.decode(space.encode(table)) == table


def test_encode_says_where_a_table_leaves_the_space() -> None:
    tied = layerwise(tie=[["embedding", "head"]])
    free = layerwise()
    table = free.decode(np.random.default_rng(0).random(free.dimension))
    expect_error(lambda: tied.encode(table), "'weight'", "not in this space")
    frozen = layerwise(freeze={"block.1": {"t": 0.75}})
    expect_error(lambda: frozen.encode(free.decode(free.default())), "'t' of group 'block.1'", "0.25", "0.75")
    by_part = Blockwise(SMALL, INPUTS, PARAMETERS)
    parts = by_part.decode(np.random.default_rng(0).random(by_part.dimension))
    expect_error(lambda: free.encode(parts), "'block.0'", "different")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranges": {"weight": [1.0, 0.0]}}, ("low <= high", "[1.0, 0.0]")),
        ({"ranges": {"weight": [0.0]}}, ("[low, high]", "[0.0]")),
        ({"ranges": {"weight": 1.0}}, ("[low, high]", "1.0")),
        ({"ranges": {"weight": "01"}}, ("[low, high]", "'01'")),
        ({"ranges": {"weight": [0.0, float("nan")]}}, ("finite", "nan")),
        ({"ranges": {"weight": [0.0, True]}}, ("number", "True")),
        ({"freeze": {"head": 0.5}}, ("'head'", "0.5", "'weight'")),
        ({"freeze": {"head": {"weight": [0.5, 0.5]}}}, ("one value or 3", "[0.5, 0.5]")),
        ({"freeze": {"head": {"t": "0.5"}}}, ("'t' in 'head'", "'0.5'")),
        ({"freeze": {"block.9*": "default"}}, ("'block.9*'", "'block.0'")),
        ({"freeze": ["head"]}, ("['head']",)),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], words: tuple[str, ...]) -> None:
    expect_error(lambda: layerwise(**options), *words)


def test_what_a_space_is_built_from_is_checked() -> None:
    expect_error(lambda: Layerwise(SMALL, ["a", "a"], PARAMETERS), "'a', 'a'")
    expect_error(lambda: Layerwise(SMALL, [], PARAMETERS), "inputs")
    expect_error(lambda: Layerwise(Layout.from_names([]), INPUTS, PARAMETERS), "0 tensors")
    expect_error(lambda: Layerwise(SMALL, INPUTS, (*PARAMETERS, PARAMETERS[0])), "distinct names")


def test_a_design_that_loses_a_tensor_is_refused() -> None:
    class Loses(SearchSpace):
        def _design(self, layout: Layout) -> Design:
            return Design({"all": layout.names[1:]})

    class Empty(SearchSpace):
        def _design(self, layout: Layout) -> Design:
            return Design({"all": layout.names, "none": ()})

    expect_error(lambda: Loses(SMALL, INPUTS, PARAMETERS), "Loses", "every tensor")
    expect_error(lambda: Empty(SMALL, INPUTS, PARAMETERS), "Empty")


def test_a_shared_parameter_of_one_input_keeps_its_name() -> None:
    space = Layerwise(SMALL, ["only"], PARAMETERS)
    assert "t[head]" in space.names
    assert "weight[head, only]" in space.names
