"""Methods that look further than a tile: whole tensors, whole models, statistics from data, missing tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.merging.engine import MergeError
from evomerge.merging.method import Bounds, CopyOf, MethodError, PerInput, Shared, merge_method
from evomerge.merging.models.checkpoint import CheckpointError
from evomerge.merging.moments import MomentsFile
from evomerge.merging.tiles import TILE, TensorSource, Workers, total
from search_spaces.base import CoefficientTable
from tests.contracts.merge_method import make_engine, make_merge, random_models

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Scale = Annotated[Shared, Bounds(1.0, 0.0, 2.0)]
READ: list[int] = []


@merge_method(operates_on="deltas", reference="https://example.org", whole=True, linear_in=("scale",))
def leading(deltas: Sequence[Tensor], *, scale: Scale, source: TensorSource, base: Tensor) -> Tensor:
    """Sum of deltas, from the cache where it is there; asks for everything that a whole kernel may have."""
    assert base.shape == source.shape
    if "sum" not in source.cache:
        READ.append(len(deltas))
        source.cache["sum"] = torch.stack(list(deltas)).sum(0)
    cached: Tensor = source.cache["sum"]
    return cached * scale


def _norm(sources: Iterable[TensorSource], *, scale: Scale) -> float:
    squares = [total((source.deltas(0, tile) * scale).square_()) for source in sources for tile in source.tiles]
    return float(sum(squares) ** 0.5)


@merge_method(operates_on="deltas", reference="https://example.org", survey=_norm)
def unit(deltas: Sequence[Tensor], *, surveyed: float) -> Tensor:
    """The first delta divided by its norm over the whole model."""
    return deltas[0] / surveyed


def _informed(source: TensorSource, *, weight: Weight) -> CopyOf | None:
    return None if weight[0] else CopyOf(0)


@merge_method(operates_on="weights", reference="https://example.org", prepare=_informed, whole=True, needs=("fisher",))
def informed(weights: Sequence[Tensor], *, source: TensorSource) -> Tensor:
    """Weights times their statistics."""
    first = source.moment("fisher", 0)
    return weights[0] if first is None else weights[0] * first


def models(n_inputs: int = 2) -> list[dict[str, Tensor]]:
    return [{"x": tensor, "y": tensor[:3] * 2} for tensor in random_models(0, n_inputs, torch.float32)]


def merge_of(method: Any, n_inputs: int, values: Any, **given: Any) -> Any:
    return make_merge(f"{__name__}:{method.name}", n_inputs, values, **given)


def test_a_whole_kernel_reads_tensors_in_their_shape_and_only_when_it_needs_them() -> None:
    READ.clear()
    made = models()
    engine, into = make_engine(made[0], made[1:]), {name: tensor.clone() for name, tensor in made[0].items()}
    for scale in (1.0, 0.5):
        engine.apply(merge_of(leading, 2, {"scale": [scale]}), into)
        for name in ("x", "y"):
            deltas = sum(model[name] - made[0][name] for model in made[1:])
            torch.testing.assert_close(into[name], made[0][name] + scale * deltas)
    assert READ == [2, 2], "the second merge finds both sums"


def test_a_stream_keeps_nothing_of_what_it_cached() -> None:
    READ.clear()
    made = models()
    engine = make_engine(made[0], made[1:])
    for _ in range(2):
        dict(engine.stream(merge_of(leading, 2, {"scale": [1.0]})))
    assert READ == [2, 2, 2, 2]


def test_scratch_memory_larger_than_a_tile() -> None:
    base, other = (torch.zeros(TILE + 7), torch.ones(TILE + 7))
    source = TensorSource("x", ("a",), [base, other], seed=0, cache={}, workers=Workers(1))
    assert len(source.entire.scratch("more", base)) == TILE + 7


def test_a_survey_sees_the_whole_model_before_the_first_tensor() -> None:
    made = models(1)
    engine, into = make_engine(made[0], made[1:]), {name: tensor.clone() for name, tensor in made[0].items()}
    engine.apply(merge_of(unit, 1, {"scale": [2.0]}), into)
    deltas = {name: made[1][name] - made[0][name] for name in made[0]}
    norm = 2 * torch.cat([delta.flatten() for delta in deltas.values()]).norm()
    for name, tensor in engine.stream(merge_of(unit, 1, {"scale": [2.0]})):
        torch.testing.assert_close(tensor, made[0][name] + deltas[name] / norm)
        assert torch.equal(tensor, into[name])


def test_a_survey_needs_the_same_coefficient_everywhere() -> None:
    made = models(1)
    merge = merge_of(unit, 1, {"scale": [2.0]}, groups={"one": ("x",), "other": ("y",)})
    dict(make_engine(made[0], made[1:]).stream(merge))
    other = CoefficientTable(merge.table.groups, {"scale": np.array([[2.0], [3.0]])})
    with pytest.raises(MethodError, match=r"single scale, the same for all tensors; it has 2 .* 2.0 and 3.0"):
        dict(make_engine(made[0], made[1:]).stream(replace(merge, table=other)))


def test_an_input_without_a_tensor_takes_no_part_in_it() -> None:
    made = models(3)
    del made[2]["y"]
    values = {"weight": [0.5, 0.3, 0.2]}
    for method in ("linear", "task_arithmetic"):
        merged = dict(make_engine(made[0], made[1:]).stream(make_merge(method, 3, values)))
        without = [made[0], made[1], made[3]]
        wanted = dict(
            make_engine(without[0], without[1:], names=("math", "chat")).stream(
                make_merge(method, 2, {"weight": [0.5, 0.2]}, names=("math", "chat"))
            )
        )
        assert torch.equal(merged["y"], wanted["y"]), method
        assert not torch.equal(merged["x"], wanted["x"]), method


def test_the_number_of_inputs_is_checked_where_an_input_is_missing() -> None:
    made = models(2)
    del made[2]["y"]
    with pytest.raises(MethodError, match="passthrough merges exactly 1 model"):
        dict(make_engine(made[0], made[1:]).stream(make_merge("passthrough", 2, {"scale": 1.0})))


def test_statistics_from_data_reach_the_kernel(tmp_path: Path) -> None:
    made = models(1)
    save_file({"fisher/x": torch.full((9, 37), 3.0)}, tmp_path / "s.safetensors")
    moments = MomentsFile(tmp_path / "s.safetensors")
    engine = make_engine(made[0], made[1:], moments=[None, moments])
    merged = dict(engine.stream(merge_of(informed, 1, {"weight": [1.0]})))
    torch.testing.assert_close(merged["x"], made[1]["x"] * 3)
    assert torch.equal(merged["y"], made[1]["y"])


def test_missing_statistics_are_refused_by_name(tmp_path: Path) -> None:
    made = models(1)
    save_file({"gram/x": torch.ones(2, 2)}, tmp_path / "s.safetensors")
    for moments in ([], [None, None], [None, MomentsFile(tmp_path / "s.safetensors")]):
        with pytest.raises(MergeError, match="needs the statistics 'fisher' of every input, and 'math' has none"):
            dict(make_engine(made[0], made[1:], moments=moments).stream(merge_of(informed, 1, {"weight": [1.0]})))


def test_files_that_are_no_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        MomentsFile(tmp_path / "none.safetensors")
    save_file({"model.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"'model\.weight', which is not a statistic: .*fisher/"):
        MomentsFile(tmp_path / "w.safetensors")


def test_a_method_is_linear_in_its_own_parameters_only() -> None:
    def kernel(deltas: Sequence[Tensor], *, weight: Weight) -> Tensor:
        return deltas[0] * weight[0]

    with pytest.raises(TypeError, match="linear_in 'wait', which is not one of its parameters"):
        merge_method(operates_on="deltas", reference="https://example.org", linear_in=("wait",))(kernel)
