"""Compiled kernels against the PyTorch path: equal bits, equal errors."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.engine import MergeError
from evomerge.merging.fused import tensors
from evomerge.merging.fused.tensors import torch_only, write_sum
from tests.contracts.merge_method import make_engine, make_merge, random_models

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
NAMES = tuple("abcdefghi")
FUSED = Path(tensors.__file__).parent
#: Method, options, most inputs, and a parameter besides `weight`, which is drawn.
SUMS: tuple[tuple[str, dict[str, Any], int, dict[str, float]], ...] = (
    ("linear", {}, 9, {}),
    ("linear", {"normalize": False}, 9, {}),
    ("task_arithmetic", {}, 9, {"scale": -0.7}),
    ("ema", {}, 9, {"rate": 0.8}),
    ("metrics_weighted", {}, 9, {"penalty": 0.3}),
    ("mediator", {}, 9, {"threshold": 1.0}),
    ("karcher", {}, 9, {}),
    ("multislerp", {}, 9, {}),
    ("multislerp", {"relative_to_base": True}, 9, {}),
    ("model_stock", {"clamp": False}, 9, {"scale": 0.9}),
    ("nuslerp", {}, 2, {}),
    ("nuslerp", {"relative_to_base": True}, 2, {}),
    ("slerp", {}, 1, {"t": 0.3}),
    ("wise_ft", {}, 1, {"t": 0.3}),
    ("expo", {}, 1, {"alpha": 0.4}),
    ("passthrough", {}, 1, {"scale": 0.6}),
)


def models_of(size: int, n_inputs: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Base and inputs with denormal numbers, zeros of both signs, and elements that are the same in all of them."""
    made = [tensor.float() for tensor in random_models(seed, n_inputs, dtype, (size,))]
    for number, tensor in enumerate(made):
        tensor[::5] *= 1e-39
        tensor[1::7] *= 1e-6
        tensor[2::11] = -0.0 if number % 2 else 0.0
        tensor[3::13] = 0.25
    return [tensor.to(dtype) for tensor in made]


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@contextmanager
def all_fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where a sum falls back to PyTorch."""
    from evomerge.merging import prepared

    def write(*given: Any) -> bool:
        assert write_sum(*given)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "write_sum", write)
        yield


def written(
    method: str, models: Sequence[Tensor], values: dict[str, Any], options: dict[str, Any], place: Tensor, **given: Any
) -> Tensor:
    """The merge of one tensor into `place`."""
    into = {"x": place}
    engine = make_engine({"x": models[0]}, [{"x": t} for t in models[1:]], names=NAMES[: len(models) - 1], **given)
    engine.apply(make_merge(method, len(models) - 1, values, options=options, names=NAMES), into)
    return into["x"]


def weights(method: str, n_inputs: int, seed: int) -> dict[str, Any]:
    if method in ("ema", "metrics_weighted", "model_stock", "slerp", "wise_ft", "expo", "passthrough"):
        return {}
    random = np.random.default_rng(seed).uniform(0.1, 1.0, n_inputs)
    if method in ("linear", "task_arithmetic") and n_inputs > 2:
        random[1], random[2] = 0.0, -0.3
    return {"weight": random.tolist()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("method", "options", "most", "others"), SUMS)
def test_both_paths_give_the_same_bits(
    method: str,
    options: dict[str, Any],
    most: int,
    others: dict[str, float],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = sorted({min(most, n) for n in (2, 3, 5)} - ({1} if most > 1 else set()))
    for n_inputs in counts:
        for size in (1, 7, 4097):
            models = models_of(size, n_inputs, dtype, seed=size)
            values = {**weights(method, n_inputs, size), **others}
            for place, target in ((dtype, None), (torch.float32, None), (torch.float32, torch.float32)):
                results = []
                for fused in (all_fused(monkeypatch), torch_only()):
                    with fused:
                        out = torch.full((size,), 7.0, dtype=place)
                        results.append(written(method, models, values, options, out, dtype=target))
                assert torch.equal(bits(results[0]), bits(results[1])), (n_inputs, size, place, target)


@pytest.mark.parametrize("n_inputs", range(1, 10))
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_any_number_of_models_and_threads(method: str, n_inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PIECE", 3000)
    monkeypatch.setattr(tensors, "_BUFFER", 1000)
    models = models_of(10007, n_inputs, torch.bfloat16, seed=n_inputs)
    values = {"weight": np.random.default_rng(n_inputs).uniform(0.1, 0.9, n_inputs).tolist()}
    options: dict[str, Any] = {"normalize": False}
    with torch_only():
        expected = written(method, models, values, options, torch.zeros(10007, dtype=torch.bfloat16))
    for threads in (1, 2):
        with all_fused(monkeypatch):
            place = torch.zeros(10007, dtype=torch.bfloat16)
            assert torch.equal(bits(written(method, models, values, options, place, threads=threads)), bits(expected))


def test_models_of_different_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    base, *inputs = models_of(4097, 3, torch.float32)
    models = [base.bfloat16(), inputs[0].half(), inputs[1], inputs[2].bfloat16()]
    values = {"weight": [0.3, -0.2, 0.5]}
    with all_fused(monkeypatch):
        found = written(
            "task_arithmetic", models, values, {}, torch.zeros(4097, dtype=torch.float16), dtype=torch.float16
        )
    with torch_only():
        place = torch.zeros(4097, dtype=torch.float16)
        assert torch.equal(
            bits(found), bits(written("task_arithmetic", models, values, {}, place, dtype=torch.float16))
        )


@pytest.mark.parametrize("shape", [(), (0,), (tiles.PIECE + 1,)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    models = [t.bfloat16() for t in random_models(1, 2, torch.float32, shape)]
    values = {"weight": [0.3, 0.4]}
    found = written("task_arithmetic", models, values, {}, torch.zeros(shape, dtype=torch.bfloat16), threads=2)
    with torch_only():
        expected = written("task_arithmetic", models, values, {}, torch.zeros(shape, dtype=torch.bfloat16))
    assert torch.equal(bits(found), bits(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.3e38, 6.55e4])
def test_results_that_are_not_finite_are_the_same_errors(dtype: torch.dtype, bad: float) -> None:
    models = models_of(4097, 3, dtype)
    models[2][[0, 17, 4096]] = torch.tensor(bad).to(dtype)
    messages = []
    for place in (dtype, torch.float32):
        for number in range(2):
            with torch_only() if number else pytest.MonkeyPatch.context():
                try:
                    written(
                        "linear",
                        models,
                        {"weight": [0.5, 1.05, 0.5]},
                        {"normalize": False},
                        torch.zeros(4097, dtype=place),
                    )
                    messages.append("")
                except MergeError as error:
                    messages.append(str(error))
    assert messages[0] == messages[1] == messages[2] == messages[3]
    too_large = bad != 6.55e4 or dtype == torch.float16
    assert ("The merge has 3 non-finite values in x" in messages[0]) == too_large


@pytest.mark.parametrize(
    ("dtype", "first"),
    [(torch.bfloat16, 0x7F7F8000), (torch.float16, 0x477FF000), (torch.float32, 0x7F800000)],
    ids=str,
)
def test_the_first_value_that_rounds_to_infinity_is_not_finite(dtype: torch.dtype, first: int) -> None:
    for pattern in (first - 1, first):
        model = torch.tensor([0, pattern], dtype=torch.int32).view(torch.float32)
        finite = bool(torch.isfinite(model.to(dtype)).all())
        assert finite == (pattern != first)
        place = torch.zeros(2, dtype=dtype)
        assert write_sum([model], [1.0], None, place, dtype, lambda kernel: [kernel(0, 2)]) == finite
        for target in (None, torch.float32):
            place = torch.zeros(2, dtype=target or dtype)
            message = "The merge has 1 non-finite values in x" if not finite else None
            with pytest.raises(MergeError, match=message) if message else contextlib.nullcontext():
                written("passthrough", [model, model / 2], {"scale": 2.0}, {}, place, dtype=dtype)


def test_unsuitable_tensors_are_left_to_pytorch() -> None:
    models = [t.double() for t in random_models(0, 2, torch.float32)]
    place = torch.zeros(9, 37)
    assert not write_sum(models[1:], [0.1, 0.2], models[0], place, torch.float32, lambda f: [f(0, 333)])
    turned = torch.zeros(37, 9).T
    assert not write_sum(
        [t.float() for t in models[1:]], [0.1, 0.2], None, turned, torch.float32, lambda f: [f(0, 333)]
    )
    merged = written("task_arithmetic", models, {"weight": [0.1, 0.2]}, {}, turned, dtype=torch.float32)
    expected = models[0] + 0.1 * (models[1] - models[0]) + 0.2 * (models[2] - models[0])
    torch.testing.assert_close(merged, expected.float())


def test_a_compiled_merge_counts_as_a_change_of_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is copied after changes only, such as rearranged weights of a network, would stay as it was."""
    place = torch.zeros(9, 37)
    before = place._version
    with all_fused(monkeypatch):
        written("task_arithmetic", random_models(0, 2, torch.float32), {"weight": [0.1, 0.2]}, {}, place)
    assert place._version > before


def test_kernels_files_name_the_digest_of_words() -> None:
    digest = hashlib.sha256((FUSED / "words.py").read_bytes()).hexdigest()[:16]
    others = [path for path in FUSED.glob("*.py") if "fused.words import" in path.read_text()]
    assert others
    for path in others:
        assert f"Digest of words.py: {digest}\n" in path.read_text(), f"{path.name}: write {digest}"


@pytest.mark.parametrize("of_gradient", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slopes_of_sums_are_those_in_float64(dtype: torch.dtype, of_gradient: torch.dtype) -> None:
    size = tiles.PIECE + 4097
    for n_inputs, method in ((1, "task_arithmetic"), (5, "task_arithmetic"), (3, "linear")):
        models = [t.to(dtype) for t in random_models(0, n_inputs, torch.float32, (size,))]
        gradient = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(of_gradient)
        base = models[0].float() if method == "task_arithmetic" else torch.zeros(())
        expected = [float((gradient.double() * (t.float() - base).double()).sum()) for t in models[1:]]
        merge = make_merge(method, n_inputs, {"weight": [0.4] * n_inputs}, options={"normalize": False})
        found = []
        for threads in (1, 2):
            engine = make_engine({"x": models[0]}, [{"x": t} for t in models[1:]], threads=threads)
            found.append(engine.slopes(merge)("x", gradient)["weight"])
        assert np.array_equal(found[0], found[1])
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)
        with torch_only():  # sums of a tile in float32
            np.testing.assert_allclose(engine.slopes(merge)("x", gradient)["weight"], expected, rtol=1e-3)


def test_numba_is_imported_by_the_first_merge() -> None:
    program = (
        "import sys\n"
        "import evomerge.merging.engine, evomerge.merging.methods.linear\n"
        "from tests.contracts.merge_method import merged, random_models\n"
        "assert 'numba' not in sys.modules\n"
        "models = random_models(0, 2, evomerge.merging.engine.torch.float32)\n"
        "merged('linear', models[0], models[1:], {'weight': [0.3, 0.7]})\n"
        "assert 'numba' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_without_numba_pytorch_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # an import then raises ImportError
    for name in ("words", "sums"):
        monkeypatch.delitem(sys.modules, f"evomerge.merging.fused.{name}", raising=False)
    tensors._module.cache_clear()
    models = models_of(100, 2, torch.bfloat16)
    place = torch.zeros(100, dtype=torch.bfloat16)
    try:
        assert tensors.kernels("sums") is None
        found = written("task_arithmetic", models, {"weight": [0.3, 0.4]}, {}, place.clone())
    finally:
        tensors._module.cache_clear()
    with torch_only():
        assert torch.equal(bits(found), bits(written("task_arithmetic", models, {"weight": [0.3, 0.4]}, {}, place)))


#: Methods that work element by element, with a parameter each that makes their products inexact.
ELEMENTWISE: dict[str, dict[str, Any]] = {
    "linear": {"weight": [0.3, 0.5, 0.4]},
    "task_arithmetic": {"weight": [0.3, 0.5, 0.4]},
    "ties": {"weight": [0.3, 0.5, 0.4], "density": [0.6] * 3},
    "dare_ties": {"weight": [0.3, 0.5, 0.4], "density": [0.6] * 3},
    "dare_linear": {"weight": [0.3, 0.5, 0.4], "density": [0.6] * 3},
    "della": {"weight": [0.3, 0.5, 0.4], "density": [0.6] * 3},
    "ram": {"weight": [0.3, 0.5, 0.4]},
    "lora_linear": {"weight": [0.3, 0.5, 0.4]},
    "lora_ties": {"weight": [0.3, 0.5, 0.4]},
}


def fingerprints() -> list[str]:
    """Hashes of merges by PyTorch alone."""
    drawn = np.random.default_rng(5).standard_normal((4, 40, 1300), dtype=np.float32)  # unlike torch.randn on any CPU
    models = [torch.from_numpy(drawn[0] + 0.05 * part * (n > 0)) for n, part in enumerate(drawn)]
    with torch_only():
        found = [written(m, models, v, {}, torch.zeros(40, 1300)) for m, v in ELEMENTWISE.items()]
    return [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in found]


@pytest.mark.slow
def test_without_fused_multiply_add_the_bits_are_the_same() -> None:
    program = "from tests.evomerge.merging.test_fused import fingerprints; print(*fingerprints())"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}  # PyTorch's kernels for CPUs without AVX2
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True, timeout=600
    )
    assert dict(zip(ELEMENTWISE, run.stdout.split(), strict=True)) == dict(
        zip(ELEMENTWISE, fingerprints(), strict=True)
    )
