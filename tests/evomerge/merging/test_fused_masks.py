"""Sums and elections of sparse deltas: compiled kernels against the PyTorch path, equal bits and equal errors."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging import prepared, tiles
from evomerge.merging.engine import MergeError
from evomerge.merging.fused import magnitudes
from evomerge.merging.fused.masks import MOST_INPUTS, write_sparse
from evomerge.merging.fused.tensors import torch_only
from evomerge.merging.kernels.sparsify import largest
from evomerge.merging.tiles import TensorSource, Workers
from tests.contracts.merge_method import make_engine, make_merge, random_models

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
NAMES = tuple("abcdefghi")
SHAPE = (37, 41)
#: Method, options, and parameters besides weight and density.
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("ties", {}, {"scale": 0.9}),
    ("ties", {"normalize": False}, {}),
    ("ties", {"election": "frequency"}, {"scale": 1.3}),
    ("ties", {"rescale": "mergekit"}, {}),
    ("ties", {"compat": "peft"}, {"scale": 0.9}),
    ("ties", {"compat": "official"}, {"scale": 0.9}),
    ("ties", {"compat": "mergelm", "normalize": False}, {}),
    ("ties", {"compat": "mergelm", "election": "frequency"}, {}),
    ("magnitude_prune", {}, {"scale": -0.7}),
    ("dare_linear", {}, {}),
    ("dare_linear", {"rescale": "mergekit", "normalize": True}, {}),
    ("dare_ties", {}, {"scale": 0.9}),
    ("dare_ties", {"normalize": True, "compat": "peft"}, {}),
    ("dare_ties", {"normalize": True, "election": "frequency", "rescale": "none"}, {}),
    ("darex_q", {}, {"inverse_q": 3.0}),
    ("della", {}, {"epsilon": 0.1}),
    ("della", {"rescale": "mergekit", "normalize": False}, {"epsilon": 0.15}),
    ("della", {}, {"epsilon": 0.0}),
    ("della_linear", {}, {"epsilon": 0.1}),
    ("della_linear", {"rescale": "none"}, {"epsilon": 0.2}),
    ("breadcrumbs", {}, {"gamma": 0.05}),
    ("breadcrumbs", {"compat": "mergekit", "rescale": "mergekit"}, {"gamma": 0.02}),
    ("breadcrumbs_ties", {}, {"gamma": 0.05}),
    ("breadcrumbs_ties", {"compat": "mergekit", "normalize": True}, {"gamma": 0.3}),
)
#: One density for each of three inputs; weights are those of `values`.
DENSITIES = ((0.5, 0.2, 0.5), (0.0, 0.001, 1.0), (1.0, 1.0, 1.0))


def models_of(dtype: torch.dtype, n_inputs: int = 3, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> list[Tensor]:
    """Base and inputs with equal magnitudes, denormal deltas, zeros of both signs, and opposite deltas."""
    made = [tensor.float().reshape(-1) for tensor in random_models(seed, n_inputs, torch.float32, shape)]
    base = made[0]
    for number, tensor in enumerate(made):
        tensor[::5] = base[::5].bfloat16().float() + 0.0625 * ((number + 1) % 3 - 1)
        tensor[1::7] *= 1e-39
        tensor[2::11] = -0.0 if number % 2 else 0.0
        tensor[3::13] = base[3::13]
        tensor[4::17] = 0.5 * (number == 1) - 0.5 * (number == 2)
    return [tensor.to(dtype).reshape(shape) for tensor in made]


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """The results of the compiled passes."""
    found: list[bool] = []

    def write(*given: Any) -> bool:
        found.append(write_sparse(*given))
        return found[-1]

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "write_sparse", write)
        yield found


def values(density: Sequence[float], method: str, others: Mapping[str, Any], n_inputs: int = 3) -> dict[str, Any]:
    second = -0.4 if method in ("magnitude_prune", "dare_linear", "della_linear", "breadcrumbs", "ties") else 0.4
    weights = [0.7, second, 0.9, 0.0, 0.3, 1.0, 0.2, 0.6, 0.5]
    return {"weight": weights[:n_inputs], "density": [density[i % len(density)] for i in range(n_inputs)], **others}


def written(
    method: str,
    models: Sequence[Tensor],
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    place: Tensor,
    **engine: Any,
) -> Tensor:
    """The merge of one tensor into `place`, which is returned."""
    made = make_engine({"x": models[0]}, [{"x": t} for t in models[1:]], names=NAMES[: len(models) - 1], **engine)
    made.apply(make_merge(method, len(models) - 1, given, options=options, names=NAMES, seed=3), {"x": place})
    return place


def check_bits(
    method: str,
    options: Mapping[str, Any],
    given: Mapping[str, Any],
    models: Sequence[Tensor],
    place: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    **engine: Any,
) -> int:
    """Compare both paths; return the number of compiled passes, all of which wrote finite results."""
    empty = torch.full(models[0].shape, 7.0, dtype=place)
    with counted(monkeypatch) as passes:
        found = written(method, models, given, options, empty.clone(), **engine)
    with torch_only():
        expected = written(method, models, given, options, empty.clone(), **{**engine, "threads": 1})
    assert all(passes)
    assert torch.equal(bits(found), bits(expected)), (method, given)
    return len(passes)


@pytest.mark.parametrize(("method", "options", "others"), CASES)
def test_both_paths_give_the_same_bits(
    method: str, options: dict[str, Any], others: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_of(torch.bfloat16)
    given = [values(density, method, others) for density in DENSITIES]
    assert sum(check_bits(method, options, one, models, torch.bfloat16, monkeypatch) for one in given) >= 2


@pytest.mark.parametrize(("dtype", "place", "target"), [
    (torch.float16, torch.float16, None),
    (torch.float16, torch.float32, None),
    (torch.bfloat16, torch.float32, None),
    (torch.bfloat16, torch.float32, torch.float32),
    (torch.float32, torch.float32, None),
    (torch.float32, torch.float16, torch.float16),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("method", ["ties", "dare_linear", "della", "breadcrumbs"])
def test_any_dtype(
    method: str, dtype: torch.dtype, place: torch.dtype, target: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"della": {"epsilon": 0.1}, "breadcrumbs": {"gamma": 0.05}}.get(method, {})
    for density in DENSITIES[:2]:
        given = values(density, method, others)
        assert check_bits(method, {}, given, models_of(dtype), place, monkeypatch, dtype=target) == 1


@pytest.mark.parametrize("numel", [1000, 1001])
def test_cuts_that_end_between_neighbors_of_equal_magnitude(numel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [torch.full((numel,), value, dtype=torch.bfloat16) for value in (0.5, 1.0, 0.25, 0.75)]
    for kept in ((501, 500, 1), (2, 999, 499)):
        given = values([(count + 0.5) / numel for count in kept], "ties", {})
        assert check_bits("ties", {}, given, models, torch.bfloat16, monkeypatch) == 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("method", "others"), [
    ("ties", {}), ("dare_ties", {}), ("della_linear", {"epsilon": 0.1}), ("breadcrumbs", {"gamma": 0.05}),
])  # fmt: skip
def test_pieces_that_begin_within_rows(
    method: str, others: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PIECE", 1000)
    monkeypatch.setattr(tiles, "TILE", 700)
    models = models_of(torch.bfloat16, shape=(61, 127))
    for density in DENSITIES[:2]:
        given = values(density, method, others)
        assert check_bits(method, {}, given, models, torch.bfloat16, monkeypatch, threads=threads) == 1


@pytest.mark.parametrize("n_inputs", [1, 2, 5, MOST_INPUTS, MOST_INPUTS + 1])
@pytest.mark.parametrize("method", ["ties", "dare_linear"])
def test_any_number_of_inputs(method: str, n_inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    models = models_of(torch.bfloat16, n_inputs)
    given = values((0.4, 0.7, 0.3), method, {}, n_inputs)
    if n_inputs <= MOST_INPUTS:
        assert check_bits(method, {}, given, models, torch.bfloat16, monkeypatch) == 1
    else:
        with counted(monkeypatch) as passes:
            written(method, models, given, {}, torch.empty(SHAPE, dtype=torch.bfloat16))
        assert passes == [False], "left to PyTorch"


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 2, 5)])
@pytest.mark.parametrize(("method", "others"), [("ties", {}), ("dare_linear", {}), ("breadcrumbs", {"gamma": 0.05})])
def test_odd_shapes(
    method: str, others: dict[str, Any], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [tensor.bfloat16() for tensor in random_models(1, 3, torch.float32, shape)]
    check_bits(method, {}, values((0.5, 0.4, 0.3), method, others), models, torch.bfloat16, monkeypatch)


def test_tensors_that_no_kernel_reads_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    given = values((0.5, 0.4, 0.3), "ties", {})
    models = [tensor.double() for tensor in random_models(1, 3, torch.float32)]
    with counted(monkeypatch) as passes:
        written("ties", models, given, {}, torch.zeros(9, 37), dtype=torch.float32)
    assert passes == [False]
    models = [tensor.float().T for tensor in models]
    merged = written("ties", models, given, {}, torch.zeros(9, 37).T)
    expected = written("ties", [tensor.contiguous() for tensor in models], given, {}, torch.zeros(37, 9))
    assert torch.equal(bits(merged.contiguous()), bits(expected))


def test_equal_models_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    base = models_of(torch.bfloat16)[0]
    assert check_bits("ties", {}, values((0.5,), "ties", {}), [base] * 4, torch.bfloat16, monkeypatch) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.3e38])
@pytest.mark.parametrize(("method", "options", "others"), [
    ("ties", {}, {"scale": 2.0}),
    ("ties", {"normalize": False}, {}),
    ("dare_linear", {}, {}),
    ("dare_ties", {}, {}),
    ("della", {}, {"epsilon": 0.1}),
    ("breadcrumbs", {"compat": "mergekit"}, {"gamma": 0.0}),
])  # fmt: skip
def test_results_that_are_not_finite_are_the_same_errors(
    method: str, options: dict[str, Any], others: dict[str, Any], bad: float
) -> None:
    models = models_of(torch.bfloat16)
    models[1].view(-1)[[0, 17, 1516]] = bad
    models[3].view(-1)[[0, 17]] = -bad
    messages = []
    for fused in (True, False):
        with contextlib.nullcontext() if fused else torch_only():
            given = values((1.0, 0.9, 0.95), method, others)
            place = torch.zeros(SHAPE, dtype=torch.bfloat16)
            try:
                messages.append(str(bits(written(method, models, given, options, place)).tolist()))
            except MergeError as error:
                messages.append(str(error))
    assert messages[0] == messages[1]
    if not np.isfinite(bad):
        assert "non-finite values in x" in messages[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuts_are_those_of_pytorch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PIECE", 1000)
    monkeypatch.setattr(tiles, "TILE", 700)
    monkeypatch.setattr(magnitudes, "_BLOCK", 300)
    base, *inputs = models_of(dtype, shape=(4001,))
    ties = 0
    for threads in (1, 2):
        for density in (1e-9, 0.0003, 0.2, 0.5, 0.77, 0.9999):
            for index in range(3):
                found = []
                for fused in (True, False):
                    with contextlib.nullcontext() if fused else torch_only():
                        source = source_of(base, inputs, threads)
                        found.append(largest(source, index, density, at_least=1))
                assert found[0] == found[1]
                assert found[0] is not None
                magnitude = (inputs[index].float() - base.float()).abs()
                kept = magnitude > found[0].threshold
                kept[: found[0].end] |= magnitude[: found[0].end] == found[0].threshold
                assert int(kept.sum()) == max(int(density * 4001), 1)
                ties += int((magnitude == found[0].threshold).sum()) > 1
    assert ties > 3, "some thresholds divide equal magnitudes"


def source_of(base: Tensor, inputs: Sequence[Tensor], threads: int) -> TensorSource:
    return TensorSource("x", NAMES[: len(inputs)], [base, *inputs], seed=0, cache={}, workers=Workers(threads))
