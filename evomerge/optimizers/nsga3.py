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
    """Genetic search that selects by non-domination and by niches along reference directions.

    Intended for four or more objectives, where nearly every trial is non-dominated and crowding distances carry little
    information. Any number of objectives; it differs from `nsga2` only in the selection of parents.

    Args:
        population: Trials per generation, at least 2.
        divisions: Divisions per axis of the evenly spread reference directions (Das and Dennis): 3 divisions of 4
            objectives give 20 directions.
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
