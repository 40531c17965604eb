"""Every merge method, from files to a folder: `python -m tests.benchmarks.bench_methods [--megabytes 2000]`.

Each method merges the same models in a process of its own; printed are its seconds and the most memory it had:
`own` without the pages of mapped files, which the system takes back when it needs them, and `all` with them.
With --mergekit PYTHON (an interpreter that has mergekit) its command line merges the same models in the same run.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluators import _strict_yaml as strict_yaml
from evomerge import plugins
from evomerge.merging.method import MergeMethod
from evomerge.recipe import Input, Merge, Recipe
from evomerge.recipe.file import write_merge
from search_spaces.base import CoefficientTable
from tests.benchmarks.bench_merge import EXPERTS, HIDDEN, INNER, VOCABULARY, write_models

#: Our name -> mergekit's, and the parameters of a model and of the merge that it insists on.
MERGEKIT: dict[str, tuple[str, dict[str, float], dict[str, float]]] = {
    "linear": ("linear", {"weight": 0.3}, {}),
    "task_arithmetic": ("task_arithmetic", {"weight": 0.3}, {}),
    "slerp": ("slerp", {}, {"t": 0.3}),
    "nuslerp": ("nuslerp", {"weight": 0.3}, {}),
    "multislerp": ("multislerp", {"weight": 0.3}, {}),
    "karcher": ("karcher", {}, {}),
    "model_stock": ("model_stock", {}, {}),
    "ties": ("ties", {"weight": 0.3, "density": 0.5}, {}),
    "dare_linear": ("dare_linear", {"weight": 0.3, "density": 0.5}, {}),
    "dare_ties": ("dare_ties", {"weight": 0.3, "density": 0.5}, {}),
    "della": ("della", {"weight": 0.3, "density": 0.5}, {}),
    "della_linear": ("della_linear", {"weight": 0.3, "density": 0.5}, {}),
    "breadcrumbs": ("breadcrumbs", {"weight": 0.3, "density": 0.5}, {}),
    "breadcrumbs_ties": ("breadcrumbs_ties", {"weight": 0.3, "density": 0.5}, {}),
    "sce": ("sce", {}, {"select_topk": 0.5}),
    "nearswap": ("nearswap", {}, {"t": 0.001}),
    "arcee_fusion": ("arcee_fusion", {}, {}),
    "ram": ("ram", {}, {}),
    "ram_plus": ("ramplus_tl", {}, {}),
    "passthrough": ("passthrough", {}, {}),
}

#: Options without which a method refuses these models: none of them is pruned.
OPTIONS: dict[str, dict[str, Any]] = {"sparse_soup": {"masks": "intersect"}}


@dataclass(frozen=True)
class Measured:
    """Seconds, and the most memory in MiB: without mapped files, and with them. error: its last line."""

    seconds: float
    own: float
    everything: float
    error: str = ""


def write_folders(folder: Path, megabytes: int) -> list[Path]:
    """Base and experts as folders with a configuration."""
    made = []
    # In a process of its own, which gives its memory back: random numbers of 2 GB take 8 of it.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        paths = pool.submit(write_models, folder, megabytes, "bfloat16").result()
    for path in paths:
        place = folder / path.stem
        place.mkdir()
        path.rename(place / "model.safetensors")
        made.append(place)
    layers = read_layers(made[0])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    for place in made:
        (place / "config.json").write_text(json.dumps(config))
    return made


def read_layers(folder: Path) -> int:
    """The number of blocks."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return 1 + max(int(name.split(".")[2]) for name in header if ".layers." in name)


def measure(command: list[str], folder: Path) -> Measured:
    """Run a command and watch its memory."""
    begin = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        own = everything = 0.0
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status")
            try:
                found = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            except OSError:
                break
            own = max(own, float(found.get("RssAnon", "0 kB").split()[0]) / 1024)
            everything = max(everything, float(found.get("VmHWM", "0 kB").split()[0]) / 1024)
            time.sleep(0.02)
    code = process.wait()
    seconds = time.perf_counter() - begin
    lines = (folder / "log").read_text().strip().splitlines() or ["no output"]
    return Measured(seconds, own, everything, "" if code == 0 else lines[-1][:200])


def ours(name: str, models: list[Path], folder: Path) -> Measured:
    """A method on as many of the experts as it takes, through the command line."""
    method: MergeMethod = plugins.load("merge method", name, MergeMethod)
    n_inputs = min(len(EXPERTS), method.max_inputs or len(EXPERTS))
    inputs = tuple(Input(path.name, str(path)) for path in models[1 : 1 + n_inputs])
    values: dict[str, Any] = {}
    for parameter in method.parameters:
        value = {"weight": 0.3, "density": 0.5}.get(parameter.name, parameter.default)
        values[parameter.name] = np.full((1, n_inputs if parameter.per_input else 1), value)
    recipe = Recipe(Input("base", str(models[0])), inputs, name, dict(method.options) | OPTIONS.get(name, {}))
    write_merge(Merge(recipe, CoefficientTable({"all": ("*",)}, values)), folder / "recipe.yaml")
    command = [sys.executable, "-m", "evomerge.cli", "merge", str(folder / "recipe.yaml"), "-o", str(folder / "ours")]
    found = measure([*command, "--overwrite"], folder)
    subprocess.run(["rm", "-rf", str(folder / "ours")], check=True)
    return found


def theirs(python: Path, name: str, models: list[Path], folder: Path) -> Measured:
    """The same with mergekit's command line."""
    method, per_model, shared = MERGEKIT[name]
    declared: MergeMethod = plugins.load("merge method", name, MergeMethod)
    n_inputs = min(len(EXPERTS), declared.max_inputs or len(EXPERTS))
    chosen = models[1 : 1 + n_inputs]
    uses_base = method not in ("linear", "karcher", "passthrough", "nuslerp", "multislerp")
    listed = [models[0], *chosen] if method in ("slerp", "nearswap", "arcee_fusion") else chosen
    config: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(path), "parameters": dict(per_model)} for path in listed],
        "parameters": dict(shared),
        "dtype": "bfloat16",
    }
    if uses_base:
        config["base_model"] = str(models[0])
    (folder / "mergekit.yml").write_text(strict_yaml.dump(config))
    command = [str(python.parent / "mergekit-yaml"), str(folder / "mergekit.yml"), str(folder / "theirs")]
    found = measure([*command, "--no-copy-tokenizer"], folder)
    subprocess.run(["rm", "-rf", str(folder / "theirs")], check=True)
    return found


def row(name: str, mine: Measured, other: Measured | None) -> str:
    """A line of the table."""
    method: MergeMethod = plugins.load("merge method", name, MergeMethod)
    kind = "whole tensors" if method.whole else "element-wise"
    if mine.error:
        return f"| `{name}` | {kind} | {mine.error} | | | | |"
    line = f"| `{name}` | {kind} | {mine.seconds:.1f} | {mine.own:.0f} | {mine.everything:.0f} |"
    if other is None:
        return line + " | |"
    if other.error:
        return line + f" failed | {other.error} |"
    return line + f" {other.seconds:.1f} ({other.seconds / mine.seconds:.1f} x) | {other.everything:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--mergekit", type=Path, default=None, help="a Python that has mergekit")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = write_folders(folder, given.megabytes)
        print("| method | kind | s | MiB, own | MiB, all | mergekit s | mergekit MiB, all |")
        print("|---|---|---|---|---|---|---|")
        for method in given.methods or plugins.names("merge method"):
            if plugins.load("merge method", method, MergeMethod).needs:
                continue
            mine = ours(method, models, folder)
            other = theirs(given.mergekit, method, models, folder) if given.mergekit and method in MERGEKIT else None
            print(row(method, mine, other), flush=True)


if __name__ == "__main__":
    main()
