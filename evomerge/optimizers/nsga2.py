"""NSGA-II (Deb et al., 2002), from Optuna. https://doi.org/10.1109/4235.996017."""

import warnings
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import BaseMutation
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal


class Nsga2(Optimizer):
    """Genetic search that keeps the best by non-domination and crowding. Any number of objectives.

    Generation g is the g-th `population` succeeded trials in the order of telling, baselines included, so
    several slots waste nothing; with one slot this is Optuna's own counting. Uniform crossover, and mutation
    by a new draw: at 100 to 200 trials of 7 and 30 coordinates better than polynomial mutation.
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
        if population < 2:
            raise OptimizerError(f"population must be at least 2; it is {population}.")
        self._population = population
        self._parents: list[list[int]] = []
        self._view = OptunaView(dimension, n_objectives)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        with warnings.catch_warnings():
            # Operators of one's own are marked experimental.
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = _CountedGenerations(self._parents, self._population, self._seed32(number))
        return Proposal(self._view.suggest(sampler, pending))

    def _tell(self, observation: Observation) -> None:
        self._view.tell(observation)


class _NewDraw(BaseMutation):
    """A uniform draw. Without it, Optuna draws mutants from a second generator with the same seed."""

    def mutation(
        self,
        param: float,  # noqa: ARG002 - Optuna's
        rng: np.random.RandomState,
        study: Study,  # noqa: ARG002 - Optuna's
        search_space_bounds: NDArray[np.float64],
    ) -> float:
        return float(rng.uniform(*search_space_bounds))


class _CountedGenerations(NSGAIISampler):
    """Generations counted off from the told trials, where Optuna reads labels that were written at the ask.

    parents: study numbers of the parents of generation 1, 2, ...; a memo, filled here as generations end.
    """

    def __init__(self, parents: list[list[int]], size: int, seed: int) -> None:
        super().__init__(population_size=size, seed=seed, mutation=_NewDraw())
        self._parents = parents
        self._size = size

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:  # noqa: ARG002 - Optuna's
        return len(_succeeded(study)) // self._size

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return _succeeded(study)[generation * self._size : (generation + 1) * self._size]

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        while len(self._parents) < generation:
            elite = self.select_parent(study, len(self._parents) + 1)
            self._parents.append(sorted(trial.number for trial in elite))
        if generation == 0:
            return []
        trials = study.get_trials(deepcopy=False)
        return [trials[number] for number in self._parents[generation - 1]]


def _succeeded(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
