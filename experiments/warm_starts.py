"""`python -m experiments.warm_starts`: searches that learn from earlier ones, against searches that do not.

Bowls of closed form over ten coefficients, on which noisy examples decide: two tasks, a search for each seed, and
earlier searches of 60 trials over the same tasks or over others, whose optimum is elsewhere. Measured: the true quality
of the best merge so far, by the search split.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from evaluators import _strict_yaml as strict_yaml
from evaluators.synthetic import Synthetic
from evomerge.config import load_config
from evomerge.launch.launch import run
from evomerge.launch.plan import prepare
from evomerge.run import Run

BLOCKS = [f"model.layers.{n}.{part}.weight" for n in range(3) for part in ("self_attn.q_proj", "mlp.up_proj")]
NAMES = ("model.embed_tokens.weight", *BLOCKS, "model.norm.weight")
#: Trials of an earlier search, and trials of a new one after which it is looked at.
EARLIER, COSTS = 60, (20, 30, 50)


def write_models(folder: Path) -> dict[str, str]:
    """Write a base and two experts of random numbers; the tasks look at coefficients only."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("base", "a", "b"):
        tensors = {key: torch.tensor(rng.normal(size=(4, 6)), dtype=torch.float32) for key in NAMES}
        save_file(tensors, folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in ("base", "a", "b")}


def searched(out: Path, name: str, tasks: tuple[int, int], **changes: Any) -> Run:
    """Run a search over two tasks, or take one that is there."""
    models = write_models(out / "models")
    settings = {
        "base": models.pop("base"),
        "experts": models,
        "space": {"kind": "layerwise", "ranges": {"weight": [0, 1]}},
        "tasks": {
            f"task{n}": {"evaluator": "synthetic", "task": n, "n_examples": 400, "noise": "binomial"} for n in tasks
        },
        "executor": "serial",
        "study": str(out / name),
        **changes,
    }
    file = out / f"{name}.yaml"
    file.write_text(strict_yaml.dump(settings), encoding="utf-8")
    config = load_config(file)
    run(config, prepare(config), resume=True)
    return Run(config.study)


def qualities(found: Run, tasks: tuple[int, int], costs: tuple[int, ...] = COSTS) -> list[float]:
    """Return the true quality of the best merge by the search split, after each number of trials."""
    told = [e for e in found.study.told if e.trial.counts and e.trial.x is not None and not e.trial.origin.is_parent]
    best = []
    for cost in costs:
        entry = min((e for e in told if e.trial.number <= cost), key=lambda e: (e.losses or (np.inf,))[0])
        values = found.space.decode(entry.trial.x if entry.trial.x is not None else np.empty(0)).values["weight"]
        optima = [Synthetic(task=n, n_examples=400).optimum("weight", values.shape) for n in tasks]
        best.append(float(np.mean([np.exp(-4.0 * np.mean((values - optimum) ** 2)) for optimum in optima])))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/warm_starts"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--optimizers", nargs="*", default=["cma_es", "tpe", "gp"])
    given = parser.parse_args()
    out, mine, others = given.out.absolute(), (0, 1), (2, 3)
    print("| optimizer | learns from | " + " | ".join(f"{cost} trials" for cost in COSTS) + " |")
    print("|---|---|" + "---|" * len(COSTS))
    for optimizer in given.optimizers:
        longer = f"nothing, {EARLIER} trials more"
        rows: dict[str, list[list[float]]] = {"nothing": [], longer: [], "the same tasks": [], "other tasks": []}
        for seed in range(given.seeds):
            old = {"optimizer": "cma_es", "seed": 100 + seed, "budget": {"trials": EARLIER}}
            same = searched(out, f"same-{seed}", mine, **old)
            elsewhere = searched(out, f"others-{seed}", others, **old)
            new = {"optimizer": optimizer, "seed": seed, "budget": {"trials": max(COSTS)}}
            for name, learned in (("nothing", None), ("the same tasks", same), ("other tasks", elsewhere)):
                more = {} if learned is None else {"learn_from": [str(learned.folder)]}
                found = searched(out, f"{optimizer}-{name.replace(' ', '-')}-{seed}", mine, **new, **more)
                rows[name].append(qualities(found, mine))
            budget = {"trials": EARLIER + max(COSTS)}
            found = searched(out, f"{optimizer}-longer-{seed}", mine, **{**new, "budget": budget})
            rows[longer].append(qualities(found, mine, tuple(EARLIER + cost for cost in COSTS)))
        for name, results in rows.items():
            table = np.array(results)
            cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(table.mean(0), table.std(0, ddof=1), strict=True)]
            print(f"| {optimizer} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
