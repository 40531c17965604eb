"""NSGA-III (Deb and Jain, 2014), from Optuna. https://doi.org/10.1109/TEVC.2013.2281535."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from optuna.samplers import NSGAIIISampler

from evomerge.optimizers._counted_generations import CountedGenerations, Population
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal


class _CountedNsga3(CountedGenerations, NSGAIIISampler):
    pass


class Nsga3(Optimizer):
    """Genetic search that keeps the best by non-domination and by niches along reference directions.

    Meant for four objectives and more, where nearly every trial is non-dominated and crowding says little. The
    directions are spread evenly, `divisions` per axis (Das and Dennis): 20 for 4 objectives and 3 divisions. Any
    number of objectives; generations as in `nsga2`, of which it differs in the choice of parents only.
    """

    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        population: int = 10,
        divisions: int = 3,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if divisions < 1:
            raise OptimizerError(f"divisions must be at least 1; it is {divisions}.")
        sampler = partial(_CountedNsga3, dividing_parameter=divisions)
        self._population = Population(sampler, (dimension, n_objectives), population, self._seed32)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._population.ask(number, pending))

    def _tell(self, observation: Observation) -> None:
        self._population.tell(observation)
