"""Paths through the blocks of several models: slots, scales, and what stands for a path."""

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.base import CoefficientTable, FloatArray, Layout, Parameter, Path, Step
from search_spaces.dataflow import Dataflow
from tests.contracts.search_space import PARAMETERS, PROPERTY, AnySpaceContract, expect_error, points


def blocks(**depths: int) -> Layout:
    names = [f"{model}.block.{n}" for model, depth in depths.items() for n in range(depth)]
    return Layout(tuple(names), tuple(range(len(names))), ("other",) * len(names))


SCALE = (Parameter("scale", 1.0, 0.0, 2.0, per_input=True),)


class TestDataflow(AnySpaceContract):
    space = Dataflow
    inputs = ("base", "v1.5")
    parameters = SCALE
    bounds = (Parameter("slot", 0.0, 0.0, 1.0, per_input=False), Parameter("scale", 1.0, 0.5, 1.5, per_input=False))
    layouts: ClassVar[Any] = (blocks(base=4, **{"v1.5": 3}),)

    def path(self, space: Dataflow, x: FloatArray) -> Path:
        return space.path(space.decode(x))

    def test_it_starts_at_the_blocks_of_the_ends(self) -> None:
        for ends, depth in (("base", 4), ("v1.5", 3)):
            space = self.build(ends=ends, repetitions=2)
            steps = tuple(Step(ends, block) for block in range(depth))
            assert self.path(space, space.default()) == Path(steps, ends)

    def test_repetitions_pass_through_the_list_again(self) -> None:
        space = self.build(repetitions=2)
        assert space.names[:2] == ("slot[1.base.block.0]", "slot[1.base.block.1]")
        assert space.names[-1] == "scale[2.v1.5.block.2]"
        on = {"slot[1.v1.5.block.1]": 1.0, "slot[2.base.block.3]": 1.0, "slot[2.v1.5.block.1]": 0.51}
        x = np.array([on.get(name, 0.1 if name.startswith("slot") else 0.75) for name in space.names])
        assert self.path(space, x).steps == (Step("v1.5", 1), Step("base", 3, 1.25), Step("v1.5", 1, 1.25))

    @PROPERTY
    @given(data=st.data())
    def test_scales_have_an_effect_only_between_two_slots(self, data: st.DataObject) -> None:
        space = self.build(repetitions=2)
        x = data.draw(points(space))
        table = space.decode(x)
        on = np.flatnonzero(table.values["slot"][:, 0])
        assert len(on)
        active = {f"scale[{space.groups[row]}]" for row in on[1:]}
        for index, name in enumerate(space.names):
            if name.startswith("scale"):
                moved = x.copy()
                moved[index] = 0.0 if x[index] > 0.5 else 1.0
                assert (space.decode(moved) == table) == (name not in active)

    @PROPERTY
    @given(data=st.data())
    def test_paths_have_one_to_max_length_blocks_of_the_largest_coordinates(self, data: st.DataObject) -> None:
        space = self.build(max_length=2)
        x = data.draw(points(space))
        slots = x[: len(space.groups)]
        on = space.decode(x).values["slot"][:, 0] == 1
        assert on.sum() == min(max((slots > 0.5).sum(), 1), 2)
        assert slots[on].min() >= slots[~on].max()

    def test_kept_slots_are_never_dropped(self) -> None:
        space = self.build(max_length=2, freeze={"base.block.0": {"slot": 1}})
        path = self.path(space, np.ones(space.dimension))
        assert len(path.steps) == 2
        assert path.steps[0] == Step("base", 0)
        without = self.build(freeze={"base.*": {"slot": 0}})
        assert {step.model for step in self.path(without, np.zeros(without.dimension)).steps} == {"v1.5"}

    def test_without_scales_only_slots_are_searched(self) -> None:
        space = self.build(scales=False)
        assert all(name.startswith("slot") for name in space.names)
        assert space.ranges == {}
        assert {step.scale for step in self.path(space, np.ones(space.dimension)).steps} == {1.0}
        assert self.build(ranges={"scale": [0.8, 1.25]}).ranges == {"scale": (0.8, 1.25)}

    def test_landmarks_are_paths_of_one_model_and_stacks_of_two(self) -> None:
        space = self.build(repetitions=2)
        found = {label: self.path(space, x).steps for label, x in space.landmarks().items()}
        base, other = ([Step(model, n) for n in range(depth)] for model, depth in (("base", 4), ("v1.5", 3)))
        assert found == {
            "blocks:base": tuple(base),
            "blocks:v1.5": tuple(other),
            "stack:v1.5": (*base[:3], *other[1:]),
        }
        assert set(self.build(max_length=4).landmarks()) == {"blocks:base", "blocks:v1.5"}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"repetitions": 0}, ["repetitions", "0"]),
            ({"max_length": True}, ["max_length", "True"]),
            ({"scales": 2}, ["scales", "2", "ranges"]),
            ({"ends": "maths"}, ["ends", "base, v1.5", "'maths'"]),
            ({"ranges": {"scale": [0, 2]}}, ["positive", "0"]),
            ({"ranges": {"scale": [-1, 2]}}, ["positive", "-1"]),
            ({"ranges": {"scale": [1.1, 2]}}, ["include 1", "1.1"]),
            ({"ranges": {"scale": 2}}, ["[low, high]", "2"]),
            ({"ranges": {"slot": [0, 1]}}, ["slot", "freeze"]),
            ({"scales": False, "ranges": {"scale": [0.5, 2]}}, ["scales is false"]),
            ({"freeze": {"*": {"slot": 0}}}, ["every slot off"]),
            ({"freeze": {"base.*": {"slot": 1}}, "max_length": 3}, ["4 slots", "3"]),
            ({"freeze": {"base.block.1": {"scale": -1}}}, ["positive", "-1"]),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, options: dict[str, Any], words: list[str]) -> None:
        expect_error(lambda: self.build(**options), *words)

    def test_other_methods_are_refused(self) -> None:
        expect_error(lambda: Dataflow(self.layouts[0], self.inputs, PARAMETERS), "method: passthrough", "weight")

    def test_tables_of_no_path_are_not_in_the_space(self) -> None:
        space = self.build()
        values = dict(space.decode(space.default()).values)
        for wrong in (
            values | {"slot": values["slot"] * 0.75},
            values | {"slot": values["slot"] * 0.0},
            values | {"scale": values["scale"] * 1.25},
            values | {"scale": values["scale"] * 3.0},
        ):
            expect_error(
                lambda wrong=wrong: space.encode(CoefficientTable(space.decode(space.default()).groups, wrong))
            )

    def test_it_has_no_derivatives(self) -> None:
        space = self.build()
        expect_error(lambda: space.pull_back(space.default(), {}), "no derivatives")
