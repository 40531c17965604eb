"""A world with per-example losses, gradients and a metric, for optimizers that ask for parts of candidates."""

from dataclasses import dataclass, field

import numpy as np

from evomerge.optimizers.base import FloatArray, Measures, Observation, Optimizer, Proposal, TaskExamples

#: What a forward and a backward pass cost, in forward passes.
GRADIENT_COST = 3


@dataclass
class World:
    """Examples around an optimum of each task; an example is right where its loss is below its threshold.

    hostile: tasks whose metric falls where their loss does. blind: tasks without a loss.
    """

    dimension: int = 12
    sizes: tuple[int, ...] = (60, 40)
    hostile: frozenset[str] = frozenset()
    blind: frozenset[str] = frozenset()
    coarse: tuple[int, ...] | None = None
    seed: int = 0
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.names = tuple(f"task{n}" for n in range(len(self.sizes)))
        self.optima = rng.uniform(0.6, 0.9, (len(self.sizes), self.dimension))
        self.examples = [
            o + 0.05 * rng.standard_normal((n, self.dimension)) for o, n in zip(self.optima, self.sizes, strict=True)
        ]
        self.thresholds = [rng.uniform(0.0, 0.12, n) for n in self.sizes]

    @property
    def measures(self) -> Measures:
        tasks = tuple(
            TaskExamples(name, size, 1 / len(self.sizes), "it is blind." if name in self.blind else None)
            for name, size in zip(self.names, self.sizes, strict=True)
        )
        return Measures(tasks, coarse=None if self.coarse is None else np.array(self.coarse))

    def losses(self, x: FloatArray) -> list[FloatArray]:
        return [np.mean((x - examples) ** 2, axis=1) for examples in self.examples]

    def wrong(self, x: FloatArray) -> list[FloatArray]:
        """What the metric says, as losses: 0 for a right example and 1 for a wrong one."""
        found = []
        for name, losses, limits in zip(self.names, self.losses(x), self.thresholds, strict=True):
            wrong = (losses > limits).astype(np.float64)
            found.append(1 - wrong if name in self.hostile else wrong)
        return found

    def score(self, x: FloatArray) -> float:
        return 1 - float(np.mean([wrong.mean() for wrong in self.wrong(x)]))

    def observed(self, number: int, proposal: Proposal, *, proposed: bool = True) -> Observation:
        """The observation that a search makes of a proposal."""
        x = proposal.x
        if proposal.rows is None:
            wrong = self.wrong(x)
            return Observation(number, x, np.array([np.mean([w.mean() for w in wrong])]), proposed, tuple(wrong))
        if proposal.gradient is None:
            parts = [wrong[list(rows)] for wrong, rows in zip(self.wrong(x), proposal.rows, strict=True)]
            return Observation(number, x, None, examples=tuple(parts), rows=proposal.rows)
        gradient = np.zeros(self.dimension)
        for examples, rows, weight in zip(self.examples, proposal.rows, proposal.gradient, strict=True):
            if rows:
                gradient += weight * np.mean(2 * (x - examples[list(rows)]) / self.dimension, axis=0)
        parts = [losses[list(rows)] for losses, rows in zip(self.losses(x), proposal.rows, strict=True)]
        return Observation(number, x, None, examples=tuple(parts), rows=proposal.rows, gradient=gradient)

    def cost(self, proposal: Proposal) -> float:
        if proposal.rows is None:
            return 1.0
        share = sum(map(len, proposal.rows)) / sum(self.sizes)
        return share if proposal.gradient is None else GRADIENT_COST * share


@dataclass
class Run:
    """What a search asked for and was told, and what it cost beyond the start."""

    proposals: list[Proposal]
    observations: list[Observation]
    cost: float

    @property
    def whole(self) -> list[Observation]:
        return [told for told in self.observations if told.rows is None and told.proposed]


def run(optimizer: Optimizer, world: World, most: float = 200.0) -> Run:
    """Search with one worker, from the start and one baseline, until the optimizer ends or the budget is spent."""
    found = Run([], [], 0.0)
    optimizer.inform(world.measures)
    for number, x in enumerate((optimizer.start, np.full(world.dimension, 0.4))):
        found.observations.append(world.observed(number, Proposal(x), proposed=False))
        optimizer.tell(found.observations[-1])
    number = 2
    while optimizer.wants({}) and found.cost < most:
        proposal = optimizer.ask(number)
        found.proposals.append(proposal)
        found.observations.append(world.observed(number, proposal))
        found.cost += world.cost(proposal)
        optimizer.tell(found.observations[-1])
        number += 1
    return found
