"""Bare tensor files to merge: no network, no tokenizer, milliseconds per candidate."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

NAMES = (
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.{part}.weight" for n in range(3) for part in ("self_attn.q_proj", "mlp.up_proj")),
    "model.norm.weight",
)


def write_toys(folder: Path, n_experts: int = 2) -> tuple[Path, dict[str, Path]]:
    """A base and its experts as single .safetensors files; keyed random numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    base = {name: torch.tensor(rng.normal(size=(4, 6)), dtype=torch.float32) for name in NAMES}
    save_file(base, folder / "base.safetensors")
    experts = {}
    for index in range(n_experts):
        name = chr(ord("a") + index)
        experts[name] = folder / f"{name}.safetensors"
        delta = {key: torch.tensor(rng.normal(size=(4, 6)) * 0.1, dtype=torch.float32) for key in NAMES}
        save_file({key: base[key] + delta[key] for key in NAMES}, experts[name])
    return folder / "base.safetensors", experts


def write_statistics(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Statistics from made-up data for the toys' experts, for methods that need some."""
    rng, masks = np.random.default_rng(8), np.random.default_rng(9)
    files = {}
    for name in names:
        found = {}
        for key in NAMES:
            rows, columns = rng.normal(size=(20, 6)), rng.normal(size=(20, 4))
            found[f"fisher/{key}"] = rng.exponential(size=(4, 6))
            found[f"gram/{key}"] = rows.T @ rows
            found[f"gram_out/{key}"] = columns.T @ columns
            found[f"mask/{key}"] = masks.random((4, 6)) < 0.5
        files[name] = folder / f"{name}-statistics.safetensors"
        save_file({key: torch.tensor(value, dtype=torch.float32) for key, value in found.items()}, files[name])
    return files


def search_file(folder: Path, *, method: str = "task_arithmetic", **changes: object) -> dict[str, object]:
    """A search over the toys with closed-form scores, as plain data; `changes` replace top-level keys."""
    base, experts = write_toys(folder / "models")
    settings: dict[str, object] = {
        "base": str(base),
        "experts": {name: str(path) for name, path in experts.items()},
        "method": method,
        "space": "layerwise",
        "tasks": {
            "one": {"evaluator": "synthetic", "task": 0, "n_examples": 200},
            "two": {"evaluator": "synthetic", "task": 1, "n_examples": 200},
        },
        "optimizer": "cma_es",
        "budget": {"trials": 30},
        "executor": "serial",
        "seed": 3,
        "study": str(folder / "study"),
    }
    settings.update(changes)
    return settings
