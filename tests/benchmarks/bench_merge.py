"""Merging against the memory: `python -m tests.benchmarks.bench_merge [--megabytes 500]`.

Merges three experts into a model, resident (`apply`), streamed (`stream`) and to a folder (`materialize`), and
compares with a triad (c = a + s * b) that moves the same bytes on the same machine in the same run.
Merge and triad take turns; printed are the median seconds and the median of their ratios, the part of the triad's
bandwidth that a merge reaches. Seconds are CPU time with one thread, since other processes may use the cores, and wall
time with more.

Where there is a GPU, resident merges there are compared with a copy that moves the same bytes, with Triton's kernels
and without.
"""

import argparse
import contextlib
import cProfile
import hashlib
import os
import pstats
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from evomerge.merging.engine import MergeEngine
from evomerge.merging.fused.tensors import kernels_on_gpu, torch_only
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.output.materialize import materialize
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable

EXPERTS = ("math", "code", "chat")
HIDDEN, INNER, VOCABULARY = 1024, 2816, 16000
PARTS = {
    "compiled passes": ("write_sum", "write_sparse"),
    "counting magnitudes": ("count_magnitudes",),
    "listing magnitudes": ("list_magnitudes",),
    "reading and subtracting": ("_values", "deltas"),
    "finding thresholds": ("largest",),
    "trimming": ("trim",),
    "electing and averaging": ("elect",),
    "combining": ("combine",),
    "checking for non-finite values": ("_sum_is_finite",),
    "short cut for equal tensors": ("identical",),
}


def shapes(megabytes: int, itemsize: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama-like model of at least that size."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    layer = 0
    while itemsize * sum(int(np.prod(shape)) for shape in found.values()) < megabytes * 2**20:
        prefix = f"model.layers.{layer}."
        found |= {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        found |= {f"{prefix}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, INNER)
        found |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        layer += 1
    return found | {"model.norm.weight": (HIDDEN,)}


def write_models(folder: Path, megabytes: int, dtype: str) -> list[Path]:
    """Base and experts: weights of standard deviation 0.02, deltas a twentieth of that."""
    random = torch.Generator().manual_seed(0)
    base = {
        n: torch.randn(s, generator=random) * 0.02 for n, s in shapes(megabytes, 4 if dtype == "float32" else 2).items()
    }
    paths = []
    for model in ("base", *EXPERTS):
        scale = 0.0 if model == "base" else 0.001
        tensors = {
            n: (t + scale * torch.randn(t.shape, generator=random)).to(getattr(torch, dtype)) for n, t in base.items()
        }
        paths.append(folder / f"{model}.safetensors")
        save_file(tensors, paths[-1])
    return paths


#: Methods that take a density per input, and those that do not read the base.
DENSE = ("ties", "dare_linear", "dare_ties", "della", "breadcrumbs")
BASELESS = ("linear", "karcher", "multislerp")


def merge(method: str, names: tuple[str, ...], weight: float, density: float = 0.5) -> Merge:
    """A candidate with one group; other weights and densities make another candidate."""
    n_inputs = len(EXPERTS)
    values = {"weight": np.array([[weight + 0.1 * i for i in range(n_inputs)]])}
    if method == "model_stock":
        values = {"scale": np.array([[weight]])}
    if method in DENSE:
        values["density"] = np.full((1, n_inputs), density)
    recipe = Recipe(Input("base", "base"), tuple(Input(name, name) for name in EXPERTS), method)
    return Merge(recipe, CoefficientTable({"all": names}, values))


def triad(nbytes: int, threads: int) -> Callable[[], None]:
    """c = a + s * b in float32 over arrays that make `nbytes` of reads and writes together."""
    size = nbytes // 12 // threads
    # In PyTorch's memory, like the merge: NumPy asks for huge pages.
    parts = [[torch.ones(size).numpy() for _ in "abc"] for _ in range(threads)]

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(add_scaled, *zip(*parts, strict=True)))

    return run


@numba.njit(nogil=True)
def add_scaled(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> None:
    for i in range(len(c)):
        c[i] = a[i] + np.float32(0.3) * b[i]


def in_turns(
    run: Callable[[int], object], plain: Callable[[], None], rounds: int, threads: int
) -> tuple[float, float, float]:
    """Median seconds of `run`, of the triad, and the median ratio of the triad's to those of the run before it.

    threads: 1 for CPU time, any other number for wall time.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    times = np.zeros((rounds, 3))
    for number in range(rounds):
        times[number, 0] = clock()
        run(number)
        times[number, 1] = clock()
        plain()
        times[number, 2] = clock()
    seconds, reference = np.diff(times, axis=1).T
    return float(np.median(seconds)), float(np.median(reference)), float(np.median(reference / seconds))


def best(run: Callable[[int], object], rounds: int) -> float:
    """Shortest of `rounds` runs in seconds; each gets its number, to make another candidate of it."""
    seconds = []
    for number in range(rounds):
        begin = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def breakdown(run: Callable[[], object]) -> str:
    """Where the time of a single-threaded run goes, in percent of all of it."""
    profile = cProfile.Profile()
    profile.runcall(run)
    stats = pstats.Stats(profile)
    total: float = stats.total_tt  # type: ignore[attr-defined]
    found = []
    for part, functions in PARTS.items():
        rows = [row for (_, _, name), row in stats.stats.items() if name in functions]  # type: ignore[attr-defined]
        # Outermost function only: "deltas" contains "_values".
        seconds = max((row[3] for row in rows), default=0.0)
        if seconds > 0.01 * total:
            found.append(f"{part} {100 * seconds / total:.0f} %")
    return ", ".join(found)


def measure(base: Checkpoint, experts: list[Checkpoint], method: str, threads: int, rounds: int) -> None:
    """Print the rows of one method."""
    into = {name: base.tensor(name).clone() for name in base.names}
    moved = base.nbytes * (len(experts) + 1 + (method not in BASELESS))
    plain = triad(moved, threads)
    plain()

    def made() -> MergeEngine:
        return MergeEngine(base, experts, names=EXPERTS, threads=threads)

    engine = made()

    def apply(number: int, density: float) -> None:
        engine.apply(merge(method, base.names, 0.2 + 0.01 * number, density), into)

    def stream(number: int) -> None:
        for _ in engine.stream(merge(method, base.names, 0.2 + 0.01 * number)):
            pass

    def first(_: int) -> None:
        made().apply(merge(method, base.names, 0.2, 0.45), into)

    first(0)  # kernels are compiled
    rows = {"first": in_turns(first, plain, rounds, threads)}
    if method in DENSE:
        rows["resident, other densities"] = in_turns(lambda n: apply(n, 0.51 + 0.01 * n), plain, rounds, threads)
    rows["resident"] = in_turns(lambda n: apply(n, 0.5), plain, rounds, threads)
    rows["streamed"] = in_turns(stream, plain, rounds, threads)
    for way, (seconds, reference, ratio) in rows.items():
        rate = moved / seconds / 1e9
        print(f"{method + ', ' + way:40}{threads:>8}{seconds:>9.3f}{reference:>9.3f}{rate:>7.1f}{ratio:>9.0%}")
    if threads == 1:
        print(f"    {breakdown(lambda: apply(77, 0.77))}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the model in its type")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    methods = ["linear", "task_arithmetic", "multislerp", "karcher", "model_stock", *DENSE]
    parser.add_argument("--methods", nargs="+", default=methods)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, *experts = (Checkpoint.open(path) for path in write_models(folder, given.megabytes, given.dtype))
        print(f"{base.nbytes / 2**20:.0f} MiB {given.dtype}, {len(base.names)} tensors, {len(experts)} experts")
        print(f"{'':40}{'threads':>8}{'seconds':>9}{'triad':>9}{'GB/s':>7}{'of triad':>9}")
        for threads in given.threads:
            for method in given.methods:
                measure(base, experts, method, threads, given.rounds)
        materialized(folder, base, given.methods, given.threads[-1], given.rounds)
        if torch.cuda.is_available():
            print(f"{torch.cuda.get_device_name():40}{'':>8}{'seconds':>9}{'copy':>9}{'GB/s':>7}{'of copy':>9}")
            for method in given.methods:
                measure_on_gpu(base, experts, method, torch.device("cuda", 0), given.rounds)


def measure_on_gpu(base: Checkpoint, experts: list[Checkpoint], method: str, device: torch.device, rounds: int) -> None:
    """Print the rows of one method: resident merges on a GPU, in wall time."""
    into = {name: base.tensor(name).to(device, copy=True) for name in base.names}
    moved = base.nbytes * (len(experts) + 1 + (method not in BASELESS))
    source, target = (torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2))
    engine = MergeEngine(base, experts, names=EXPERTS, device=str(device))
    compiled = kernels_on_gpu("cuda_sums", device) is not None

    def apply(number: int) -> None:
        engine.apply(merge(method, base.names, 0.2 + 0.01 * number), into)
        torch.cuda.synchronize(device)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize(device)

    for way, context in (("PyTorch", torch_only), *([("Triton", contextlib.nullcontext)] if compiled else [])):
        with context():
            apply(rounds)  # copies the models, compiles kernels
            copy()
            seconds, reference, ratio = in_turns(apply, copy, rounds, 0)
        print(f"{f'{method}, {way}':48}{seconds:>9.4f}{reference:>9.4f}{moved / seconds / 1e9:>7.0f}{ratio:>9.0%}")


def materialized(folder: Path, base: Checkpoint, methods: list[str], threads: int, rounds: int) -> None:
    """Print the time of whole exports, checks and hashes of all files included, and its ratio to the floor.

    The floor: the output is read, hashed, written once more and synced, one after the other. Both take turns.
    """
    print(f"{'':40}{'threads':>8}{'seconds':>9}{'x copy and hash':>17}")
    for method in methods:
        candidate = merge(method, base.names, 0.3)
        inputs = tuple(Input(name, str(folder / f"{name}.safetensors")) for name in EXPERTS)
        recipe = replace(candidate.recipe, base=Input("base", str(folder / "base.safetensors")), inputs=inputs)
        whole = replace(candidate, recipe=recipe)
        output = folder / f"merged-{method}"
        seconds, ratios = [], []
        for _ in range(rounds):
            begin = time.perf_counter()
            materialize(whole, output, threads=threads, overwrite=True)
            seconds.append(time.perf_counter() - begin)
            ratios.append(seconds[-1] / copied(output / "model.safetensors", folder / "copy"))
        shutil.rmtree(output)
        row = f"{method + ', materialized, files and all':40}{threads:>8}"
        print(f"{row}{statistics.median(seconds):>9.3f}{statistics.median(ratios):>17.2f}")


def copied(file: Path, to: Path) -> float:
    """Seconds that it takes to copy a file, hash it, and wait for the disk."""
    begin, digest = time.perf_counter(), hashlib.sha256()
    with file.open("rb") as source, to.open("wb") as target:
        while chunk := source.read(1 << 22):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    seconds = time.perf_counter() - begin
    to.unlink()
    return seconds


if __name__ == "__main__":
    main()
