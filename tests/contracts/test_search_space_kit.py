"""The kit must fail broken spaces: each of these keeps the contract but for one thing."""

from typing import Any, ClassVar

import numpy as np
import pytest

from search_spaces.base import CoefficientTable, Design, FloatArray, Layout, SearchSpace
from tests.contracts.search_space import SearchSpaceContract


class Whole(SearchSpace):
    def _design(self, layout: Layout) -> Design:
        return Design({"all": layout.names})


class PerTensor(SearchSpace):
    def _design(self, layout: Layout) -> Design:
        return Design({name: (name,) for name in layout.names})


class LosesATensor(Whole):
    def _design(self, layout: Layout) -> Design:
        return Design({"all": layout.names[1:]})


class TensorTwice(Whole):
    def _design(self, layout: Layout) -> Design:
        return Design({"all": layout.names, "again": layout.names[:1]})


class PrefixBlocks(SearchSpace):
    """`layers.3` takes `layers.35` with it."""

    def _design(self, layout: Layout) -> Design:
        groups: dict[str, list[str]] = {}
        for name, block in zip(layout.names, layout.blocks, strict=True):
            groups.setdefault("other" if block is None else f"block.{str(block)[0]}", []).append(name)
        return Design({group: tuple(members) for group, members in groups.items()})


class Altered(Whole):
    """Decodes a point that is not the one given."""

    def decode(self, x: FloatArray) -> CoefficientTable:
        return super().decode(self.alter(np.array(x, dtype=np.float64)))

    def alter(self, x: FloatArray) -> FloatArray:
        raise NotImplementedError


class NeverQuiteThere(Altered):
    def alter(self, x: FloatArray) -> FloatArray:
        return x * (1.0 - 1e-15)


class ClipsSilently(Altered):
    def alter(self, x: FloatArray) -> FloatArray:
        return np.clip(np.nan_to_num(x), 0.0, 1.0)


class DeadCoordinate(Altered):
    def alter(self, x: FloatArray) -> FloatArray:
        return np.concatenate([x[:-1], [0.5]])


class CouplesParameters(Altered):
    def alter(self, x: FloatArray) -> FloatArray:
        return np.concatenate([x[:-1], [(x[0] + x[-1]) / 2.0]])


class Remembers(Altered):
    calls = 0

    def alter(self, x: FloatArray) -> FloatArray:
        self.calls += 1
        return x if self.calls == 1 else x * 0.5


class WritesIntoThePoint(Whole):
    def decode(self, x: FloatArray) -> CoefficientTable:
        table = super().decode(x)
        x[:] = 0.0
        return table


class Backwards(Whole):
    def encode(self, table: CoefficientTable) -> FloatArray:
        return 1.0 - super().encode(table)


class EncodesAnything(Whole):
    def encode(self, table: CoefficientTable) -> FloatArray:
        return self.default()


class StartsAtTheCentre(Whole):
    def default(self) -> FloatArray:
        return np.full(self.dimension, 0.5)


class SharedDefault(Whole):
    def default(self) -> FloatArray:
        return self._default


class SameNames(Whole):
    @property
    def names(self) -> tuple[str, ...]:
        return ("weight[all]",) * self.dimension


class Forgetful(Whole):
    """Takes options and does nothing with one of them."""

    forgets: ClassVar[str] = "ranges"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{name: value for name, value in options.items() if name != self.forgets})


class ForgetsFreeze(Forgetful):
    forgets = "freeze"


class ForgetsTies(PerTensor):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{name: value for name, value in options.items() if name != "tie"})


class ForgetsStart(Forgetful):
    forgets = "start"


BROKEN = [
    (LosesATensor, "test_tables_have_every_parameter_in_its_shape"),
    (TensorTwice, "test_tables_have_every_parameter_in_its_shape"),
    (PrefixBlocks, "test_block_coordinates_change_exactly_that_block"),
    (NeverQuiteThere, "test_bounds_are_hit_exactly"),
    (ClipsSilently, "test_points_outside_of_the_cube_are_refused"),
    (DeadCoordinate, "test_every_coordinate_changes_its_parameter_only"),
    (CouplesParameters, "test_every_coordinate_changes_its_parameter_only"),
    (Remembers, "test_decode_is_pure"),
    (WritesIntoThePoint, "test_decode_is_pure"),
    (Backwards, "test_decode_of_encode_gives_the_table_back"),
    (Backwards, "test_encode_of_decode_gives_the_point_back"),
    (EncodesAnything, "test_encode_refuses_what_is_not_in_the_space"),
    (StartsAtTheCentre, "test_default_is_the_parameters_defaults"),
    (SharedDefault, "test_default_cannot_be_spoiled"),
    (SameNames, "test_names_are_unique_and_count_the_dimension"),
    (Forgetful, "test_ranges_replace_bounds_and_fix_parameters"),
    (ForgetsFreeze, "test_frozen_groups_have_no_coordinates_and_keep_their_values"),
    (ForgetsFreeze, "test_everything_can_be_frozen"),
    (ForgetsFreeze, "test_unknown_names_are_refused_with_what_there_is"),
    (ForgetsTies, "test_tied_groups_share_coordinates"),
    (ForgetsStart, "test_start_in_the_space_is_the_default"),
]


@pytest.mark.parametrize(("broken", "test"), BROKEN, ids=[f"{b.__name__}-{t[5:30]}" for b, t in BROKEN])
def test_the_kit_fails_a_broken_space(broken: type[SearchSpace], test: str) -> None:
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        getattr(_kit(broken, per_block=broken is PrefixBlocks), test)()


@pytest.mark.parametrize("test", sorted({test for _, test in BROKEN}))
def test_the_kit_passes_a_space_that_is_not_broken(test: str) -> None:
    getattr(_kit(Whole), test)()


def _kit(broken: type[SearchSpace], *, per_block: bool = False) -> SearchSpaceContract:
    class Kit(SearchSpaceContract):
        pass

    Kit.space = broken
    Kit.per_block = per_block
    return Kit()
