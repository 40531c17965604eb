"""`fixed_mean` keeps the contract of search spaces, and the mean over its groups at every point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.merging.methods.ama import ama
from search_spaces.base import CoefficientTable, Layout, SearchSpace
from search_spaces.fixed_mean import FixedMean
from tests.contracts.search_space import (
    DEEP,
    INPUTS,
    PARAMETERS,
    PROPERTY,
    SMALL,
    SearchSpaceContract,
    expect_error,
    model,
    points,
)

MEANS = {"weight": 0.4, "density": 0.7, "t": 0.25}


class TestFixedMean(SearchSpaceContract):
    """In the tests of the contract, only the weights have a mean."""

    space = FixedMean
    options = {"mean": {"weight": 0.4}}  # noqa: RUF012 - read only
    curved = ("weight",)

    @PROPERTY
    @given(data=st.data())
    def test_every_value_has_its_mean(self, data: st.DataObject) -> None:
        space = self.build(mean=None)
        for name, values in space.decode(data.draw(points(space))).values.items():
            np.testing.assert_allclose(values.mean(axis=0), MEANS[name], atol=1e-12)

    def test_default_has_the_same_value_in_every_group(self) -> None:
        space = self.build(mean=None)
        for name, values in space.decode(space.default()).values.items():
            np.testing.assert_allclose(values, MEANS[name], atol=1e-12)

    def test_every_table_with_the_mean_is_in_the_space(self) -> None:
        space = self.build(groups=4, mean={"t": 0.6}, ranges={"weight": [0, 0], "density": [1, 1]})
        assert space.dimension == 3
        table = space.decode(space.default())
        for t in ([1.0, 1.0, 0.4, 0.0], [0.0, 0.4, 1.0, 1.0], [0.6, 0.6, 0.6, 0.6], [0.9, 0.1, 0.5, 0.9]):
            wanted = CoefficientTable(table.groups, {**table.values, "t": np.array(t)[:, None]})
            np.testing.assert_allclose(space.decode(space.encode(wanted)).values["t"][:, 0], t, atol=1e-12)

    def test_a_start_with_another_mean_is_moved_to_it(self) -> None:
        start = CoefficientTable({"all": ("*",)}, {"t": np.array([[0.9]])})
        started = self.build(mean=None, start=start)
        np.testing.assert_allclose(started.decode(started.default()).values["t"], 0.25, atol=1e-12)

    def test_frozen_and_tied_groups_are_left_out_of_the_mean(self) -> None:
        space = self.build(mean=None, groups=4, freeze={"blocks.4-4": {"t": 1.0}}, tie=[["blocks.0-0", "blocks.1-1"]])
        values = space.decode(np.random.default_rng(0).random(space.dimension)).values
        assert values["t"][3] == 1.0
        assert values["t"][2] == pytest.approx(0.25), "alone it has the mean"
        assert (values["weight"][0] == values["weight"][1]).all()
        np.testing.assert_allclose(values["weight"][2:].mean(axis=0), 0.4, atol=1e-12)

    def test_only_values_with_a_coordinate_each_are_shown_in_their_range(self) -> None:
        assert self.build().ranges == {"density": (0.1, 1.0), "t": (0.0, 1.0)}

    def test_the_paper_s_cuts_of_32_and_24_blocks(self) -> None:
        assert [_blocks(FixedMean(model(n), INPUTS, PARAMETERS)) for n in (32, 24)] == [[11, 10, 11], [8, 8, 8]]
        ends = FixedMean(DEEP, INPUTS, PARAMETERS)
        table = ends.decode(ends.default())
        assert "model.embed_tokens.weight" in table.groups["blocks.0-12"]
        assert {"lm_head.weight", "model.norm.weight"} <= set(table.groups["blocks.25-37"])

    def test_no_more_groups_than_blocks(self) -> None:
        assert FixedMean(model(2), INPUTS, PARAMETERS, groups=5).groups == ("blocks.0-0", "blocks.1-1")

    def test_one_mean_for_all_parameters_leaves_fixed_ones_alone(self) -> None:
        space = self.build(mean=0.25, ranges={"density": [1.0, 1.0]})
        values = space.decode(np.full(space.dimension, 0.3)).values
        assert (values["density"] == 1.0).all()
        np.testing.assert_allclose(values["weight"].mean(axis=0), 0.25, atol=1e-12)

    def test_what_contradicts_the_mean_is_refused(self) -> None:
        expect_error(lambda: self.build(mean={"t": 1.5}), "'t'", "[0.0, 1.0]", "1.5")
        expect_error(lambda: self.build(mean={"tee": 0.5}), "'tee'")
        expect_error(lambda: self.build(mean="half"), "'half'")
        expect_error(lambda: self.build(groups=1), "1")
        off = CoefficientTable({"all": ("*",)}, {name: np.full((1, 3), 0.5) for name in ("weight", "density")})
        expect_error(lambda: self.build().encode(off))


def _blocks(space: SearchSpace) -> list[int]:
    groups = space.decode(space.default()).groups.values()
    return [len({name.split(".")[2] for name in names if ".layers." in name}) for names in groups]


def test_the_base_s_share_of_ama_has_the_authors_mean() -> None:
    space = FixedMean(SMALL, ("rlhf",), ama.parameters)
    assert space.names == ("alpha[blocks.0-1]", "alpha[blocks.2-2]")
    for x in np.random.default_rng(0).random((20, 2)):
        alpha = space.decode(x).values["alpha"][:, 0]
        assert alpha.mean() == pytest.approx(0.2)
        assert alpha.min() >= 0.0


def test_a_model_without_blocks_has_one_group_with_the_mean() -> None:
    space = FixedMean(Layout.from_names(["a", "b"]), INPUTS, PARAMETERS)
    assert space.dimension == 0
    assert (space.decode(np.zeros(0)).values["t"] == 0.25).all()
