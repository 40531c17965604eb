"""Kernels for GPUs against the PyTorch path: equal bits, equal errors.

On a GPU, `make gpu` runs these tests. Without one, the first test runs them in Triton's interpreter, with tensors on
the CPU in the places of those on the GPU; the second one compiles the kernels, which shows their instructions.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging import engine as engines
from evomerge.merging.engine import MergeError
from evomerge.merging.fused import masks, tensors
from evomerge.merging.fused.flags import Flags
from evomerge.merging.fused.masks import AtRandom, Cuts, write_sparse
from evomerge.merging.fused.tensors import model_dots, torch_only, write_sum
from tests.contracts.merge_method import make_engine, make_merge, random_models
from tests.evomerge.merging import test_fused_masks as sparse
from tests.evomerge.merging.test_fused import DTYPES, SUMS, all_fused, bits, models_of, weights, written

#: Triton reads this when it is imported, so that the interpreter needs a process of its own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


def on_device(test: Any) -> Any:
    if INTERPRETED:  # NumPy, which interprets, warns of overflows
        return pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")(test)
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")(test))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of sums. Kernels for the CPU are out of reach."""

    def on_gpu(given: list[Tensor]) -> bool:
        return all(t.dtype in DTYPES and t.is_contiguous() for t in given)

    for module in (tensors, masks):
        if INTERPRETED:
            monkeypatch.setattr(module, "on_gpu", on_gpu)
        monkeypatch.setattr(module, "kernels", lambda name: None)
    sums = tensors.kernels_on_gpu("cuda_sums", torch.device(DEVICE))
    assert sums is not None
    yield sums
    tensors._triton_works.cache_clear()


def on_cpu(*given: Any, **settings: Any) -> Tensor:
    with torch_only():
        return written(*given, **settings)


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="is the interpreter")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


@pytest.mark.skipif(INTERPRETED, reason="needs a process without the interpreter")
def test_without_triton_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # an import then raises ImportError
    for name in ("cuda_words", "cuda_sums"):
        monkeypatch.delitem(sys.modules, f"evomerge.merging.fused.{name}", raising=False)
    caches = tensors._module.cache_clear, tensors._triton_works.cache_clear
    for clear in caches:
        clear()
    try:
        assert tensors.kernels_on_gpu("cuda_sums", torch.device("cuda")) is None
    finally:
        for clear in caches:
            clear()


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="needs the compiler")
@pytest.mark.parametrize("architecture", [90])
def test_compiled_kernels_round_after_each_step(
    architecture: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import jit

    from evomerge.merging.fused import cuda_dots, cuda_masked, cuda_sums

    compiled: list[Any] = []

    class Compiler:
        """Compiles a kernel for the arguments of a launch, and does not launch it."""

        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def compile_for(*given: Any, **settings: Any) -> None:
                compiled.append(self.kernel.warmup(*given, grid=grid, **settings))

            return compile_for

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cuda_sums, "_write", Compiler(cuda_sums._write))
    monkeypatch.setattr(cuda_dots, "_add", Compiler(cuda_dots._add))
    absent = SimpleNamespace(
        get_current_device=lambda: architecture,
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", architecture, 32),
    )
    monkeypatch.setattr(jit, "driver", SimpleNamespace(active=absent))
    for dtype in DTYPES:
        base, *models = models_of(4096, 5, dtype)
        for place, origin in ((base.clone(), base), (torch.zeros(4096), base), (base.clone(), None)):
            flag = torch.zeros(4, dtype=torch.int32)
            cuda_sums.write(models, [0.1] * 5, origin, place, dtype, tensors.overflow(dtype), flag)
            cuda_dots.dots(models, origin, place)
    assert len(compiled) == 18
    for kernel in compiled[::2]:
        assert {"mul.rn.f32", "add.rn.f32", "ld.global.v4.b32"} <= instructions(kernel)  # 16 bytes at once
    for kernel in compiled[1::2]:
        assert {"add.f64", "add.rn.f64"} & instructions(kernel)
    compiled.clear()

    monkeypatch.setattr(cuda_masked, "_write", Compiler(cuda_masked._write))
    base, *models = models_of(4096, 3, torch.bfloat16)
    ranks = torch.zeros(4096, dtype=torch.int16)

    def numbers(*mask: Any) -> list[Any]:
        return [cuda_masked.Numbers(*mask)] * 3

    ones = (1.0,) * 3
    kinds: list[tuple[list[Any], Any]] = [
        (numbers("random", (1, 16, 3), (None,)), None),
        (numbers("random", (1, 2, 3), (0.5,)), (ones, ones, ones)),
        (numbers("cut", (1, 2)), (ones, ones, None)),
        (numbers("middle", (1, 2, 3, 4)), None),
        (numbers("rank", (1, 2, 3), (0.1, 0.2, 0.1), ranks), None),
        (numbers("random", (16, 1, 32), (None,)), None),  # as compiled before
        (numbers("cut", (16, 4096)), (ones, ones, None)),
    ]
    for given, election in kinds:
        flag = torch.zeros(4, dtype=torch.int32)
        cuda_masked.write(
            models, given, (0.1,) * 3, election, 1, False, base, 1.0, base.clone(), base.dtype, 0x7F7F8000, flag
        )
    assert len({id(kernel) for kernel in compiled}) == 5
    for kernel in compiled:
        assert {"mul.rn.f32", "add.rn.f32", "ld.global.v4.b32"} <= instructions(kernel)
    assert "div.rn.f32" in instructions(compiled[1]) & instructions(compiled[4])


def instructions(kernel: Any) -> set[str]:
    """The instructions of a kernel for GPUs, none of which skips a rounding or denormal numbers."""
    found = set(re.findall(r"^\s*(?:@%\w+ )?([a-z][\w.]*)", kernel.asm["ptx"], re.MULTILINE))
    assert not [name for name in found if "ftz" in name or name.startswith(("fma.rn.f32", "div.full", "div.approx"))]
    return found


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("method", "options", "most", "others"), SUMS[1::2])
def test_the_bits_are_those_of_pytorch(
    method: str,
    options: dict[str, Any],
    most: int,
    others: dict[str, float],
    dtype: torch.dtype,
    kernels: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_inputs = min(most, 3)
    for size in (1, 1025):
        models = models_of(size, n_inputs, dtype, seed=size)
        values = {**weights(method, n_inputs, size), **others}
        for place, target in ((dtype, None), (torch.float32, None), (torch.float32, torch.float32)):
            out = torch.full((size,), 7.0, dtype=place, device=DEVICE)
            with all_fused(monkeypatch):
                found = written(method, models, values, options, out, dtype=target, device=DEVICE)
            # What the method prepares, such as an angle, may differ between devices.
            with torch_only():
                out = torch.zeros(size, dtype=place, device=DEVICE)
                expected = written(method, models, values, options, out, dtype=target, device=DEVICE)
            assert torch.equal(bits(found), bits(expected)), (size, place, target)


@on_device
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_the_bits_are_those_of_the_cpu(method: str, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for n_inputs in range(1, 10):
        models = models_of(3001, n_inputs, torch.bfloat16, seed=n_inputs)
        models[-1] = models[-1].float()
        values = {"weight": np.random.default_rng(n_inputs).uniform(-0.4, 0.9, n_inputs).tolist()}
        names = tuple("abcdefghi")
        with all_fused(monkeypatch):
            out = torch.zeros(3001, dtype=torch.bfloat16, device=DEVICE)
            found = written(method, models, values, {}, out, device=DEVICE)
        expected = on_cpu(method, models, values, {}, torch.zeros(3001, dtype=torch.bfloat16))
        assert torch.equal(bits(found.cpu()), bits(expected)), names[:n_inputs]


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding_is_to_nearest_and_ties_to_even(dtype: torch.dtype, kernels: ModuleType) -> None:
    upper = torch.arange(0, 1 << 16, 7, dtype=torch.int32) << 16
    patterns = torch.cat([upper + lower for lower in (0, 1, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001)])
    model = patterns.view(torch.float32)
    model = model[model.to(dtype).isfinite()].to(DEVICE)
    place = torch.zeros(len(model), dtype=dtype, device=DEVICE)
    assert write_sum([model], [1.0], None, place, dtype, no_pieces)
    assert torch.equal(bits(place), bits(model.to(dtype)))


def no_pieces(kernel: Any) -> list[Any]:
    raise AssertionError("a GPU needs no pieces")


@on_device
@pytest.mark.parametrize(
    ("dtype", "first"),
    [(torch.bfloat16, 0x7F7F8000), (torch.float16, 0x477FF000), (torch.float32, 0x7F800000)],
    ids=str,
)
def test_the_first_value_that_rounds_to_infinity_is_not_finite(
    dtype: torch.dtype, first: int, kernels: ModuleType
) -> None:
    for pattern in (first - 1, first, 0x7FC00000):
        model = torch.zeros(1500, dtype=torch.int32)
        model[1400] = pattern
        values = model.view(torch.float32).to(DEVICE)
        place = torch.zeros(1500, dtype=dtype, device=DEVICE)
        assert write_sum([values], [-1.0], None, place, dtype, no_pieces) == (pattern < first)


@on_device
def test_results_that_are_not_finite_are_the_same_errors(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (50, 30)
    base = {name: random_models(0, 0, torch.float16, shape)[0] for name in "abc"}
    model = {name: random_models(1, 0, torch.float16, shape)[0] for name in "abc"}
    for name in "bc":
        model[name][3, :2] = 6e4
    reads: list[Flags] = []

    class Counted(Flags):
        def raised(self) -> list[int]:
            if self._memory is not None:
                reads.append(self)
            return super().raised()

    for module in (engines, tensors):
        monkeypatch.setattr(module, "Flags", Counted)
    into = {name: torch.zeros(shape, dtype=torch.float16, device=DEVICE) for name in "abc"}
    engine = make_engine(base, [model], names="m", device=DEVICE)
    large, small = (make_merge("task_arithmetic", 1, {"weight": [w]}, names="m") for w in (1.5, 0.5))
    message = "The merge has 2 non-finite values in b "
    with pytest.raises(MergeError, match=message):
        engine.apply(large, into)
    assert len(reads) == 1  # for all tensors: reading waits for the GPU
    assert Flags.raised(reads[0]) == [1, 2]
    assert engine.apply(small, into) == ("a", "b", "c")
    for name in "abc":
        expected = on_cpu(
            "task_arithmetic", [base[name], model[name]], {"weight": [0.5]}, {}, torch.zeros(shape).half()
        )
        assert torch.equal(bits(into[name].cpu()), bits(expected))
    with pytest.raises(MergeError, match=message):
        dict(engine.stream(large))


@on_device
@pytest.mark.parametrize(("method", "options", "others"), sparse.CASES)
def test_the_bits_of_masked_deltas_are_those_of_pytorch(
    method: str, options: dict[str, Any], others: dict[str, Any], kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not INTERPRETED and others.get("epsilon") == 0:
        pytest.skip("on a GPU, PyTorch multiplies by the reciprocal of a divisor, which is rounded")
    models = sparse.models_of(torch.bfloat16)
    passes = 0
    for density, dtype in ((sparse.DENSITIES[0], torch.bfloat16), (sparse.DENSITIES[1], torch.float32)):
        given = sparse.values(density, method, others)
        if "epsilon" in others and density != sparse.DENSITIES[0]:
            continue
        place = torch.full(sparse.SHAPE, 7.0, dtype=dtype, device=DEVICE)
        with sparse.counted(monkeypatch) as results:
            found = sparse.written(method, models, given, options, place.clone(), device=DEVICE)
        with torch_only():
            expected = sparse.written(method, models, given, options, place.clone(), device=DEVICE)
        # Thresholds of rows are left to PyTorch.
        assert all(results) != (method.startswith("breadcrumbs") and "compat" not in options)
        passes += len(results)
        assert torch.equal(bits(found), bits(expected)), density
    assert passes


@on_device
def test_masks_are_those_of_the_cpu(kernels: ModuleType) -> None:
    for dtype in DTYPES:
        models = sparse.models_of(dtype, 8)
        given = sparse.values((0.5,), "dare_ties", {}, 8)
        place = torch.zeros(sparse.SHAPE, dtype=dtype, device=DEVICE)
        found = sparse.written("dare_ties", models, given, {}, place, device=DEVICE)
        with torch_only():
            expected = sparse.written("dare_ties", models, given, {}, torch.zeros(sparse.SHAPE, dtype=dtype))
        assert torch.equal(bits(found.cpu()), bits(expected))


@on_device
@pytest.mark.parametrize(("undecided", "expected"), [(1, 0.125), (0, 0.0), (-1, -0.375)])
def test_ties_of_votes_and_of_magnitudes(undecided: int, expected: float, kernels: ModuleType) -> None:
    base = torch.zeros(2000, device=DEVICE)
    half = torch.tensor([0.5]).view(torch.int32)
    cut = Cuts(2000, half, torch.tensor([1500]))
    vote = masks.Vote((1.0, 1.0), (0.25, 0.75), None, undecided, False)
    place = torch.full((2000,), 7.0, device=DEVICE)
    given = masks.Sparse([cut, cut], [1.0, 1.0], vote)
    assert write_sparse(given, [base + 0.5, base - 0.5], base, place, torch.float32, no_pieces)
    assert place.tolist() == [expected] * 1500 + [0.0] * 500


@on_device
def test_masked_deltas_that_are_not_finite_or_not_suitable(kernels: ModuleType) -> None:
    base, model = (tensor.to(DEVICE) for tensor in random_models(0, 1, torch.float16, (40, 30)))
    everything = AtRandom((1, 2), 2**30)
    rows = Cuts(30, torch.zeros(40, dtype=torch.int32), torch.zeros(40, dtype=torch.int64))
    place = torch.zeros(40, 30, dtype=torch.float16, device=DEVICE)
    for mask, factor, written_whole in ((everything, 1.5, True), (everything, 1e6, False), (rows, 1.5, False)):
        given = masks.Sparse([mask], [factor])
        assert write_sparse(given, [model], base, place, torch.float16, no_pieces) == written_whole
        if mask is everything:
            expected = ((model.float() - base.float()) * factor + base.float()).half()
            assert expected.isfinite().all() == written_whole
            assert not written_whole or torch.equal(place, expected)


@on_device
def test_odd_shapes_and_layouts(kernels: ModuleType) -> None:
    for shape in ((), (0,), (33, 65)):
        models = [t.bfloat16() for t in random_models(1, 2, torch.float32, shape)]
        expected = on_cpu("task_arithmetic", models, {"weight": [0.3, 0.4]}, {}, torch.zeros(shape).bfloat16())
        transposed = torch.zeros(shape[::-1], dtype=torch.bfloat16, device=DEVICE).permute(
            tuple(range(len(shape)))[::-1]
        )
        for place in (torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE), transposed):
            found = written("task_arithmetic", models, {"weight": [0.3, 0.4]}, {}, place, device=DEVICE)
            assert torch.equal(bits(found.cpu()), bits(expected))


@on_device
def test_what_kernels_do_not_take_is_left_to_pytorch(kernels: ModuleType) -> None:
    models = [tensor.to(DEVICE) for tensor in models_of(40, 65, torch.float32)]
    place = torch.zeros(40, device=DEVICE)
    for given, coefficients in ((models, [0.1] * 66), (models[:2], [1e39, 1.0]), ([], [])):
        assert not write_sum(given, coefficients, None, place, torch.float32, no_pieces)
    assert model_dots(models, None, place, no_pieces) is None
    with torch_only():
        assert not write_sum(models[:2], [0.1, 0.2], None, place, torch.float32, no_pieces)
        assert model_dots(models[:2], None, place, no_pieces) is None


@on_device
@pytest.mark.parametrize("problem", ["", "Failed to find C compiler"])
def test_where_triton_does_not_work_pytorch_merges(
    problem: str, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*given: Any) -> None:
        if problem:
            raise RuntimeError(problem)

    tensors._triton_works.cache_clear()
    monkeypatch.setattr(kernels, "write", write)
    models = models_of(100, 2, torch.bfloat16)
    place = torch.zeros(100, dtype=torch.bfloat16, device=DEVICE)
    with pytest.warns(RuntimeWarning, match=problem or "its sums differ from those of PyTorch"):
        found = written("task_arithmetic", models, {"weight": [0.3, 0.4]}, {}, place, device=DEVICE)
    assert torch.equal(bits(found), bits(on_cpu("task_arithmetic", models, {"weight": [0.3, 0.4]}, {}, place.cpu())))


@on_device
@pytest.mark.parametrize("of_gradient", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slopes_of_sums_are_those_in_float64(dtype: torch.dtype, of_gradient: torch.dtype, kernels: ModuleType) -> None:
    for size in (0, 9, 5000):
        for n_inputs, method in ((1, "task_arithmetic"), (5, "task_arithmetic"), (3, "linear")):
            models = [t.to(dtype) for t in random_models(0, n_inputs, torch.float32, (size,))]
            gradient = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(of_gradient)
            base = models[0].float() if method == "task_arithmetic" else torch.zeros(())
            expected = [float((gradient.double() * (t.float() - base).double()).sum()) for t in models[1:]]
            merge = make_merge(method, n_inputs, {"weight": [0.4] * n_inputs}, options={"normalize": False})
            found = []
            for _ in range(2):
                engine = make_engine({"x": models[0]}, [{"x": t} for t in models[1:]], device=DEVICE)
                found.append(engine.slopes(merge)("x", gradient.to(DEVICE)).get("weight", []))
            assert np.array_equal(found[0], found[1])
            np.testing.assert_allclose(found[0], expected if len(found[0]) else [], rtol=1e-11)
