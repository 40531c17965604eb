"""The landscapes on which fronts are compared, and where their fronts are.

`synthetic-M`: bowls of M objectives over four coefficients, seen through examples that are right or wrong.
`real-K`: the demo models with K experts and K tasks. `deep-D`: the demo models with D coefficients, one per group of
layers and expert, and three tasks; every seed has a third of the examples to itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluators.base import FloatArray
from evaluators.synthetic import Synthetic
from evomerge.config import SearchConfig, load_config
from evomerge.merging.recipe_models import open_models
from evomerge.plugins import PluginSpec
from evomerge.space import build_space
from evomerge.statistics.pareto import non_dominated

FILE = Path(__file__).parent / "02-pareto" / "search.yaml"
EXPERTS = {
    2: ("reverse", "sort"),
    3: ("count", "reverse", "sort"),
    4: ("count", "find", "reverse", "sort"),
}
#: Levels per coordinate of the grids.
LEVELS = {2: 21, 3: 9}
#: Options of generation tasks on deep landscapes.
_SHORT = {"max_new_tokens": 10}


@dataclass(frozen=True)
class Landscape:
    """n_objectives tasks over the coefficients of n_experts; synthetic ones have a front in closed form.

    space: what has a coefficient per expert. evaluations: costs at which deep ones are looked at.
    """

    name: str
    n_experts: int
    n_objectives: int
    space: str = "uniform"
    evaluations: tuple[int, ...] = ()

    @property
    def synthetic(self) -> bool:
        return self.name.startswith("synthetic")

    @property
    def deep(self) -> bool:
        return self.name.startswith("deep")

    @property
    def on_grid(self) -> bool:
        """Whether its front is that of a grid."""
        return not (self.synthetic or self.deep) and self.n_experts in LEVELS

    @property
    def costs(self) -> tuple[int, ...]:
        """Evaluations at which the front is looked at: as many as a quadratic needs and 10, then more."""
        if self.deep:
            return self.evaluations
        first = (self.n_experts + 1) * (self.n_experts + 2) // 2 + 10
        return (first, 40, 60) if self.synthetic else (first, 40)


LANDSCAPES = {
    land.name: land
    for land in [
        *(Landscape(f"synthetic-{m}", 4, m) for m in (2, 3, 4, 5)),
        *(Landscape(f"real-{k}", k, k) for k in EXPERTS),
        Landscape("deep-4", 4, 3, "uniform", (20, 40)),
        Landscape("deep-24", 3, 3, "layerwise", (40, 100)),
        Landscape("deep-72", 4, 3, "blockwise", (40, 100)),
    ]
}


def configuration(land: Landscape, searcher: PluginSpec, seed: int, out: Path, label: str) -> SearchConfig:
    """The search file of one study."""
    config = load_config(FILE)
    whole = load_config(FILE.parents[1] / "01-optimizers" / "search.yaml")
    names = EXPERTS[land.n_experts]
    experts = tuple(model for model in whole.experts if model.name in names)
    if land.synthetic:
        tasks = {
            f"task{m}": PluginSpec("synthetic", {"task": m, "n_examples": 1000, "noise": "binomial", "seed": seed})
            for m in range(land.n_objectives)
        }
    else:
        asked = EXPERTS[land.n_objectives]
        files = {name: FILE.parents[2] / "models" / "data" / f"{name}.jsonl" for name in asked}
        if land.deep:
            files = {name: _third(file, seed, out) for name, file in files.items()}
        kinds = {name: "multiple_choice" if name in ("count", "find") else "exact_match" for name in asked}
        tasks = {name: PluginSpec(kinds[name], {"file": str(files[name])}) for name in asked}
        if land.deep:  # the answers have 9 tokens at most; bad merges would generate to the limit
            tasks |= {
                n: PluginSpec(t.kind, {**t.options, **_SHORT}) for n, t in tasks.items() if t.kind == "exact_match"
            }
    space = PluginSpec(land.space, config.space.options)
    given = {"experts": experts, "tasks": tasks, "space": space, "optimizer": searcher, "seed": seed}
    return config.model_copy(update=given | {"study": out / f"{land.name}-{label}-{seed}"})


def _third(file: Path, seed: int, out: Path) -> Path:
    """Every third line of a file, from line `seed`."""
    part = out / f"{file.stem}-{seed % 3}.jsonl"
    part.write_text("".join(file.read_text().splitlines(keepends=True)[seed % 3 :: 3]))
    return part


def evaluators_of(config: SearchConfig) -> list[Synthetic]:
    return [Synthetic(**spec.options) for spec in config.tasks.values()]


@dataclass(frozen=True)
class _Merged:
    coefficients: Mapping[str, FloatArray]


def truth(config: SearchConfig, points: FloatArray) -> FloatArray:
    """Losses without noise, (n_points, n_objectives)."""
    recipe = config.recipe()
    space = build_space(config.space, recipe, open_models(recipe).base.layout())
    others = space.decode(space.default()).values  # what the method has besides weights, which are the points here
    models = [_Merged({**others, "weight": x[None, :]}) for x in points]
    evaluators = evaluators_of(config)
    qualities = [[evaluator.quality(model) for evaluator in evaluators] for model in models]  # type: ignore[arg-type]
    return -np.array(qualities)


def true_front(land: Landscape, config: SearchConfig) -> FloatArray:
    """Round bowls of one size are traded off in the convex hull of their optima, and nowhere else."""
    optima = np.array([e.optimum("weight", (1, land.n_experts))[0] for e in evaluators_of(config)])
    shares = np.random.default_rng(0).dirichlet(np.full(land.n_objectives, 0.7), size=3000)
    losses = truth(config, np.concatenate([optima, shares @ optima]))
    return losses[non_dominated(losses)]


def measured_front(land: Landscape, seed: int, out: Path) -> FloatArray:
    """The front of the grid; where there is none, of all that the searchers measured, on deep ones with this seed."""
    pattern = f"{land.name}-*-{seed}.json" if land.deep else f"{land.name}-*.json"
    files = [out / f"{land.name}-grid.json"] if land.on_grid else sorted(out.glob(pattern))
    losses = np.concatenate([np.array(json.loads(file.read_text())["losses"]) for file in files])
    return losses[non_dominated(losses)]
