"""The contract kit of search spaces: subclass `SearchSpaceContract`, name the class, inherit the tests.

Of `AnySpaceContract` for a space of paths.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search_spaces.base import CoefficientTable, FloatArray, Layout, Parameter, SearchSpace, SpaceError

INPUTS = ("math", "code", "chat")
PARAMETERS = (
    Parameter("weight", 0.4, -0.5, 1.5, per_input=True),
    Parameter("density", 0.7, 0.1, 1.0, per_input=True),
    Parameter("t", 0.25, 0.0, 1.0, per_input=False),
)
WIDTHS = {"weight": 3, "density": 3, "t": 1}

#: The same examples in every run; one test object runs a test of many classes.
PROPERTY = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


def model(n_blocks: int) -> Layout:
    """A Llama-like model with one strange tensor, in checkpoint order: `layers.10` before `layers.2`."""
    names = ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "steering_vector"]
    parts = ("input_layernorm", "mlp.up_proj", "self_attn.k_proj", "self_attn.q_proj")
    names += [f"model.layers.{n}.{part}.weight" for n in range(n_blocks) for part in parts]
    return Layout.from_names(sorted(names))


SMALL = model(5)
DEEP = model(38)
PLAIN = Layout.from_names(["b", "a.kernel", "offset"])


def points(space: SearchSpace) -> st.SearchStrategy[FloatArray]:
    """Points of the cube, its faces and corners among them."""
    return arrays(np.float64, space.dimension, elements=st.floats(0.0, 1.0, allow_subnormal=False))


def expect_error(call: Callable[[], object], *words: str) -> None:
    """Fail unless `call` raises a SpaceError that says all `words`."""
    with pytest.raises(SpaceError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


class AnySpaceContract:
    """Laws of every search space, of merges or paths. Set `space`, and the other class attributes where needed."""

    #: The class under test, its own options, what it is given, and the bounds of its values.
    space: ClassVar[type[SearchSpace]]
    options: ClassVar[Mapping[str, Any]] = {}
    inputs: ClassVar[Sequence[str]] = INPUTS
    parameters: ClassVar[Sequence[Parameter]] = PARAMETERS
    bounds: ClassVar[Sequence[Parameter]] = PARAMETERS
    layouts: ClassVar[Sequence[Layout]] = (SMALL, DEEP, PLAIN)

    @property
    def widths(self) -> dict[str, int]:
        return {p.name: len(self.inputs) if p.per_input else 1 for p in self.bounds}

    def build(self, layout: Layout | None = None, **more: Any) -> SearchSpace:
        own = {**self.options, **more}
        return self.space(self.layouts[0] if layout is None else layout, self.inputs, self.parameters, **own)

    def test_groups_partition_the_tensors(self) -> None:
        for layout in self.layouts:
            space = self.build(layout)
            table = space.decode(space.default())
            members = [name for group in table.groups.values() for name in group]
            assert sorted(members) == sorted(layout.names)
            assert all(table.groups.values())

    def test_tables_have_every_parameter_in_its_shape(self) -> None:
        space = self.build()
        table = space.decode(space.default())
        shapes = {name: array.shape for name, array in table.values.items()}
        assert shapes == {name: (len(table.groups), width) for name, width in self.widths.items()}

    def test_names_are_unique_and_count_the_dimension(self) -> None:
        space = self.build()
        assert len(set(space.names)) == len(space.names) == space.dimension > 0
        assert all(name.split("[")[0] in self.widths and name.endswith("]") for name in space.names)

    @PROPERTY
    @given(data=st.data())
    def test_values_stay_in_bounds(self, data: st.DataObject) -> None:
        space = self.build()
        table = space.decode(data.draw(points(space)))
        for parameter in self.bounds:
            values = table.values[parameter.name]
            assert (values >= parameter.low).all()
            assert (values <= parameter.high).all()

    def test_keys_are_equal_where_the_coefficients_are(self) -> None:
        space, rng = self.build(), np.random.default_rng(0)
        for _ in range(10):
            x = rng.choice([0.0, 0.3, 0.5, 1.0], space.dimension)
            y = x.copy()
            where = rng.integers(space.dimension)
            y[where] = rng.choice([0.0, 1.0, x[where], np.nextafter(x[where], 0.5)])
            same = all(np.array_equal(a, b) for a, b in zip(*(space.values(z).values() for z in (x, y)), strict=True))
            assert np.array_equal(space.key_values(x), space.key_values(y)) == same

    @PROPERTY
    @given(data=st.data())
    def test_decode_is_pure(self, data: st.DataObject) -> None:
        space = self.build()
        x = data.draw(points(space))
        given_point = x.copy()
        first = space.decode(x)
        space.decode(1.0 - x)
        assert space.decode(x) == first == self.build().decode(x)
        assert np.array_equal(x, given_point)
        assert not any(array.flags.writeable for array in first.values.values())

    @PROPERTY
    @given(data=st.data())
    def test_decode_of_encode_gives_the_table_back(self, data: st.DataObject) -> None:
        space = self.build()
        table = space.decode(data.draw(points(space)))
        x = space.encode(table)
        assert x.shape == (space.dimension,)
        again = space.decode(x)
        for name, values in table.values.items():
            assert np.abs(again.values[name] - values).max() <= 1e-12

    def test_encode_reads_tables_with_other_groups(self) -> None:
        space = self.build()
        table = space.decode(np.random.default_rng(3).random(space.dimension))
        names = [name for group in table.groups.values() for name in group][::-1]
        rows = {p: np.array([table.at(name)[p] for name in names]) for p in self.widths}
        per_tensor = CoefficientTable({name: (name,) for name in names}, rows)
        assert np.array_equal(space.encode(per_tensor), space.encode(table))

    def test_points_outside_of_the_cube_are_refused(self) -> None:
        space = self.build()
        for bad in (np.nan, -1e-9, 1.0 + 1e-9, np.inf):
            x = space.default()
            x[-1] = bad
            expect_error(lambda x=x: space.decode(x), space.names[-1])
        expect_error(lambda: space.decode(np.zeros(space.dimension + 1)), f"({space.dimension},)")
        expect_error(lambda: space.decode(np.zeros((1, space.dimension))), f"({space.dimension},)")

    def test_default_cannot_be_spoiled(self) -> None:
        space = self.build()
        space.default()[:] = 0.123
        assert not np.array_equal(space.default(), np.full(space.dimension, 0.123))

    def test_start_in_the_space_is_the_default(self) -> None:
        space = self.build()
        table = space.decode(np.random.default_rng(1).random(space.dimension))
        started = self.build(start=table)
        again = started.decode(started.default())
        assert all(np.abs(again.values[p] - table.values[p]).max() <= 1e-12 for p in self.widths)

    def test_positions_tell_series_and_depths_apart(self) -> None:
        space = self.build()
        series, depths = space.positions
        assert series.shape == depths.shape == (space.dimension,)
        assert ((depths >= 0.0) & (depths <= 1.0)).all()
        kept: dict[tuple[str, str], int] = {}
        for name, number in zip(space.names, series.tolist(), strict=True):
            parameter, _, rest = name.partition("[")
            label = rest.rstrip("]").rpartition(", ")[2] if ", " in rest else ""
            assert kept.setdefault((parameter, label), number) == number
        assert sorted(kept.values()) == list(range(len(kept)))

    def test_a_copy_in_another_process_decodes_the_same(self) -> None:
        space = self.build()
        x = np.random.default_rng(4).random(space.dimension)
        assert pickle.loads(pickle.dumps(space)).decode(x) == space.decode(x)


class SearchSpaceContract(AnySpaceContract):
    """Laws of every search space of merges."""

    #: Whether there are coordinates that belong to one block only.
    per_block: ClassVar[bool] = False
    #: Parameters whose values are not simply between two bounds.
    curved: ClassVar[tuple[str, ...]] = ()

    def boxes(self, table: CoefficientTable) -> dict[str, FloatArray]:
        return {name: array for name, array in table.values.items() if name not in self.curved}

    def test_every_coordinate_changes_its_parameter_only(self) -> None:
        space = self.build()
        before = space.decode(np.full(space.dimension, 0.5))
        for index, name in enumerate(space.names):
            x = np.full(space.dimension, 0.5)
            x[index] = 0.75
            after = space.decode(x)
            changed = [p for p in WIDTHS if not np.array_equal(before.values[p], after.values[p])]
            assert changed == [name.split("[")[0]], name

    def test_block_coordinates_change_exactly_that_block(self) -> None:
        space = self.build(DEEP)
        before = space.decode(np.full(space.dimension, 0.5))
        slots = [name.split("[")[1].rstrip("]").split(",")[0] for name in space.names]
        for block in (3, 35):
            mine = [slot == f"block.{block}" or slot.startswith(f"block.{block}.") for slot in slots]
            assert any(mine) == self.per_block
            after = space.decode(np.where(mine, 0.75, 0.5))
            changed = {
                name
                for name in DEEP.names
                if any(not np.array_equal(before.at(name)[p], after.at(name)[p]) for p in WIDTHS)
            }
            there = {name for name in DEEP.names if f"layers.{block}." in name} if self.per_block else set()
            assert changed == there

    def test_bounds_are_hit_exactly(self) -> None:
        space = self.build()
        low, high = (self.boxes(space.decode(np.full(space.dimension, end))) for end in (0.0, 1.0))
        for parameter in PARAMETERS:
            if parameter.name not in self.curved:
                assert (low[parameter.name] == parameter.low).all()
                assert (high[parameter.name] == parameter.high).all()

    def test_encode_of_decode_gives_the_point_back(self) -> None:
        space = self.build(DEEP)
        x = np.random.default_rng(5).uniform(0.05, 0.95, space.dimension)
        assert np.abs(space.encode(space.decode(x)) - x).max() <= 1e-9

    def test_encode_refuses_what_is_not_in_the_space(self) -> None:
        space = self.build()
        table = space.decode(space.default())
        values = dict(table.values)
        for wrong in (
            values | {"density": values["density"] + 5.0},
            values | {"density": values["density"][:, :1]},
            values | {"lambda": values["t"]},
            {name: values[name] for name in ("weight", "density")},
        ):
            expect_error(lambda wrong=wrong: space.encode(CoefficientTable(table.groups, wrong)))
        expect_error(lambda: self.build(PLAIN).encode(table))

    def test_default_is_the_parameters_defaults(self) -> None:
        space = self.build()
        values = self.boxes(space.decode(space.default()))
        for parameter in PARAMETERS:
            if parameter.name not in self.curved:
                assert np.abs(values[parameter.name] - parameter.default).max() <= 1e-12

    def test_ranges_replace_bounds_and_fix_parameters(self) -> None:
        space = self.build(ranges={"density": [0.5, 0.5], "t": (0.2, 0.3)})
        assert not [name for name in space.names if name.startswith("density[")]
        table = space.decode(np.ones(space.dimension))
        assert (table.values["density"] == 0.5).all()
        assert (table.values["t"] == 0.3).all()

    def test_frozen_groups_have_no_coordinates_and_keep_their_values(self) -> None:
        first, last = self.build().groups[0], self.build().groups[-1]
        space = self.build(
            freeze={first: {"weight": [0.5, 0.25, 0.25], "t": 0.125}, f"{last[:-1]}?": {"density": "default"}}
        )
        table = space.decode(np.ones(space.dimension))
        assert table.values["weight"][0].tolist() == [0.5, 0.25, 0.25]
        assert table.values["t"][0].tolist() == [0.125]
        assert table.values["density"][-1].tolist() == [0.7, 0.7, 0.7]
        frozen_slots = (f"weight[{first},", f"t[{first}]", f"density[{last},")
        assert not [name for name in space.names if name.startswith(frozen_slots)]
        again = space.decode(space.encode(table))
        assert all(np.abs(again.values[p] - table.values[p]).max() <= 1e-12 for p in WIDTHS)

    def test_everything_can_be_frozen(self) -> None:
        space = self.build(freeze={"*": "default"})
        assert space.dimension == 0
        assert space.encode(space.decode(np.zeros(0))).shape == (0,)

    def test_tied_groups_share_coordinates(self) -> None:
        groups = self.build().groups
        ends = [groups[0], groups[-1]]
        space = self.build(tie=[ends])
        table = space.decode(np.random.default_rng(2).random(space.dimension))
        assert all(np.array_equal(values[0], values[-1]) for values in table.values.values())
        assert np.abs(space.encode(table) - np.random.default_rng(2).random(space.dimension)).max() <= 1e-9
        plain = self.build(tie=[["*"]])
        assert plain.dimension == self.build(PLAIN, tie=[["*"]]).dimension

    @pytest.mark.parametrize("frozen", [False, True])
    def test_pull_back_is_the_transposed_derivative_of_decode(self, frozen: bool) -> None:
        groups = self.build().groups
        some: dict[str, Any] = {
            "freeze": {groups[len(groups) // 2]: {"t": 0.5}},
            "tie": [sorted({groups[0], groups[-1]})],
            "ranges": {"density": [0.2, 0.2]},
        }
        space = self.build(**(some if frozen else {}))
        random = np.random.default_rng(6)
        x = random.uniform(0.05, 0.95, space.dimension)
        gradient = {name: random.normal(size=array.shape) for name, array in space.decode(x).values.items()}

        def value(point: FloatArray) -> float:
            return sum(float((gradient[name] * array).sum()) for name, array in space.decode(point).values.items())

        step = 1e-6
        steps = step * np.eye(space.dimension)
        expected = np.array([(value(x + one) - value(x - one)) / (2 * step) for one in steps])
        np.testing.assert_allclose(space.pull_back(x, gradient), expected, rtol=1e-6, atol=1e-7)
        only = {"weight": gradient["weight"]}
        mine = np.array([name.startswith("weight[") for name in space.names])
        assert np.array_equal(space.pull_back(x, only), np.where(mine, space.pull_back(x, gradient), 0.0))
        assert np.isfinite(space.pull_back(np.zeros(space.dimension), gradient)).all()
        assert np.isfinite(space.pull_back(np.ones(space.dimension), gradient)).all()

    def test_pull_back_refuses_gradients_of_other_tables(self) -> None:
        space = self.build()
        x = space.default()
        expect_error(lambda: space.pull_back(x, {"weight": np.zeros((1, 7))}), "'weight'", "(1, 7)")
        expect_error(lambda: space.pull_back(x, {"lambda": np.zeros((1, 1))}), "'lambda'")
        expect_error(lambda: space.pull_back(x[1:], {}), f"({space.dimension},)")

    def test_searched_groups_are_those_that_coordinates_move(self) -> None:
        first = self.build().groups[0]
        space = self.build(freeze={first: {"weight": [0.5, 0.25, 0.25]}}, ranges={"density": [0.5, 0.5]})
        assert set(space.searched) == {name.split("[")[0] for name in space.names}
        assert first not in space.searched.get("weight", ())
        ends = [space.decode(np.full(space.dimension, end)) for end in (0.1, 0.9)]
        moved = {
            name: tuple(
                g for g, a, b in zip(space.groups, *(end.values[name] for end in ends), strict=True) if any(a != b)
            )
            for name in WIDTHS
        }
        assert space.searched == {name: groups for name, groups in moved.items() if groups}

    def test_unknown_names_are_refused_with_what_there_is(self) -> None:
        first = self.build().groups[0]
        near = first[:-1]
        expect_error(lambda: self.build(freeze={near: "default"}), repr(near), f"Did you mean {first!r}")
        expect_error(lambda: self.build(tie=[[near]]), repr(near), repr(first))
        expect_error(lambda: self.build(freeze={first: {"densty": 1}}), "'densty'", "'density'")
        expect_error(lambda: self.build(ranges={"densty": [0, 1]}), "'densty'", "Did you mean 'density'")
