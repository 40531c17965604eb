"""NSGA-II (Deb et al., 2002), from Optuna. https://doi.org/10.1109/4235.996017."""

from collections.abc import Mapping
from typing import ClassVar

from optuna.samplers import NSGAIISampler

from evomerge.optimizers._counted_generations import CountedGenerations, Population
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, Proposal


class _CountedNsga2(CountedGenerations, NSGAIISampler):
    pass


class Nsga2(Optimizer):
    """Genetic search that selects by non-domination and crowding distance. Any number of objectives.

    Generation g is the g-th batch of `population` successful trials in the order they were told, baselines included,
    so parallel workers waste no trial.

    Args:
        population: Trials per generation, at least 2.
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
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        self._population = Population(_CountedNsga2, (dimension, n_objectives), population, self._seed32)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self._population.ask(number, pending))

    def _tell(self, observation: Observation) -> None:
        self._population.tell(observation)
