"""Baselines among the checkpoints of one run: first, last and best, moving averages, and averages by loss."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.merging.baselines import parent_label
from evomerge.recipe import Merge, Recipe
from evomerge.trial import BASE, UNIFORM
from search_spaces.base import CoefficientTable, FloatArray

#: Rates of the exponential moving averages that LCSC starts from. https://arxiv.org/abs/2404.02241
RATES = (0.5, 0.7, 0.9, 0.95, 0.99)
#: Numbers of last checkpoints to average.
LAST = (2, 4, 8, 16)
#: Exponents of 1 / loss in metrics-weighted averages. https://arxiv.org/abs/2504.18580
PENALTIES = (1.0, 4.0)
STATE = "trainer_state.json"


def losses_of(paths: Sequence[Path]) -> tuple[float | None, ...]:
    """Return each checkpoint's loss from its `trainer_state.json`, (n_checkpoints,); None where it has none.

    The evaluation loss if every checkpoint has one, else the training loss: the last that was logged.
    """
    states = [_state(path / STATE) for path in paths]
    found = [[_logged(state, key) for state in states] for key in ("eval_loss", "loss")]
    whole = next((losses for losses in found if None not in losses), None)
    return tuple(whole if whole is not None else found[0])


def best_of(losses: Sequence[float | None]) -> int | None:
    """Return the number of the checkpoint with the lowest loss; None where losses are missing."""
    known = [loss for loss in losses if loss is not None]
    return losses.index(min(known)) if known and len(known) == len(losses) else None


def run_baselines(recipe: Recipe, names: tuple[str, ...], losses: Sequence[float | None]) -> list[tuple[str, Merge]]:
    """Return labels and merges: last (the base), first and best checkpoint, and averages of several.

    Args:
        recipe: Task arithmetic on the last checkpoint as base and the earlier ones as inputs, in training order.
        names: The mergeable tensors.
        losses: Of the inputs, then of the base, (n_inputs + 1,).
    """
    n = len(recipe.inputs) + 1
    shares = {BASE: _one(n, n - 1), parent_label(recipe, recipe.inputs[0].name): _one(n, 0)}
    best = best_of(losses)
    if best is not None and best < n - 1:
        shares[parent_label(recipe, recipe.inputs[best].name)] = _one(n, best)
    shares[UNIFORM] = np.full(n, 1 / n)
    shares |= {f"last:{k}": np.where(np.arange(n) >= n - k, 1 / k, 0.0) for k in LAST if k < n}
    shares |= {f"ema:{rate:g}": moving_average(n, rate) for rate in RATES}
    known = [loss for loss in losses if loss is not None and loss > 0]
    if len(known) == n:
        for penalty in PENALTIES:
            weights = (min(known) / np.array(known)) ** penalty
            shares[f"metrics_weighted:{penalty:g}"] = weights / weights.sum()
    return [(label, _merge(recipe, names, share[:-1])) for label, share in shares.items()]


def moving_average(n: int, rate: float) -> FloatArray:
    """Return the shares of n checkpoints in their exponential moving average, (n,)."""
    shares = np.array([(1 - rate) * rate ** (n - 1 - step) for step in range(n)])
    shares[0] = rate ** (n - 1)
    return shares


def _one(n: int, which: int) -> FloatArray:
    return np.asarray(np.eye(n)[which])


def _merge(recipe: Recipe, names: tuple[str, ...], weight: FloatArray) -> Merge:
    table = CoefficientTable({"all": names}, {"weight": weight[None, :], "scale": np.ones((1, 1))})
    return Merge(recipe, table)


def _state(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _logged(state: dict[str, Any], key: str) -> float | None:
    """Return the last value of a key in the log, up to the checkpoint's own step."""
    log = state.get("log_history")
    last = state.get("global_step", math.inf)
    values = [e[key] for e in log if isinstance(e, dict) and key in e and e.get("step", 0) <= last] if log else []
    return float(values[-1]) if values and isinstance(values[-1], int | float) else None
