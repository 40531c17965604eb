"""Generations counted over told trials, for the two genetic plug-ins built on Optuna's samplers.

Optuna labels a trial's generation when it is asked, so all trials asked for at once share one generation. Here
generation g is the g-th batch of `population` successful trials in the order they were told, baselines included:
parallel workers waste no trial, and with one worker this is Optuna's own counting.
"""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseGASampler
from optuna.samplers.nsgaii import BaseMutation
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers.base import FloatArray, Observation, OptimizerError


class CountedGenerations(BaseGASampler):
    """Mixin that replaces the generation counting of one of Optuna's genetic samplers."""

    #: Study numbers of the parents of generation 1, 2, ...; a cache, filled as generations end.
    parents: list[list[int]]
    #: Sampler that selects a generation's parents, so that the selection does not depend on which trial asks.
    chooser: Callable[[int], "CountedGenerations"]

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:  # noqa: ARG002 - Optuna's
        """Return the current generation."""
        return len(_succeeded(study)) // self._size

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return the trials of a generation."""
        return _succeeded(study)[generation * self._size : (generation + 1) * self._size]

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return the parents of a generation; none for the first."""
        while len(self.parents) < generation:
            following = len(self.parents) + 1
            elite = self.chooser(following).select_parent(study, following)
            self.parents.append(sorted(trial.number for trial in elite))
        if generation == 0:
            return []
        trials = study.get_trials(deepcopy=False)
        return [trials[number] for number in self.parents[generation - 1]]

    @property
    def _size(self) -> int:
        if self.population_size is None:
            raise RuntimeError("Expected Optuna's genetic sampler to have a population size; it has none.")
        return self.population_size


class Population:
    """The told trials, and the offspring that a genetic sampler makes of them.

    Uniform crossover, and mutation by a fresh uniform draw, which beat polynomial mutation at 100 to 200 trials of 7
    and 30 coordinates.
    """

    def __init__(
        self,
        sampler: Callable[..., CountedGenerations],
        shape: tuple[int, int],
        size: int,
        seeds: Callable[[int], int],
    ) -> None:
        """Set up the sampler.

        Args:
            sampler: Class of the sampler.
            shape: (dimension, n_objectives).
            size: Trials per generation, at least 2.
            seeds: Maps a trial's number to a 32-bit seed.

        Raises:
            OptimizerError: `size` is below 2.
        """
        if size < 2:
            raise OptimizerError(f"population must be at least 2; it is {size}.")
        self._sampler = sampler
        self._size = size
        self._seeds = seeds
        #: Parents of each generation from the second on, as indices of told trials.
        self.parents: list[list[int]] = []
        self._view = OptunaView(*shape)

    def ask(self, number: int, pending: Mapping[int, FloatArray]) -> FloatArray:
        """Return the point for trial `number`, (dimension,)."""
        return self._view.suggest(self._made(number), pending)

    def tell(self, observation: Observation) -> None:
        """Append a trial."""
        self._view.tell(observation)

    def _made(self, number: int) -> CountedGenerations:
        with warnings.catch_warnings():
            # Optuna marks NSGA-III and custom operators as experimental.
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = self._sampler(population_size=self._size, seed=self._seeds(number), mutation=_NewDraw())
        sampler.parents = self.parents
        sampler.chooser = self._made
        return sampler


class _NewDraw(BaseMutation):
    """Mutation by a uniform draw. Without it, Optuna draws mutants from a second generator with the same seed."""

    def mutation(
        self,
        param: float,  # noqa: ARG002 - Optuna's
        rng: np.random.RandomState,
        study: Study,  # noqa: ARG002 - Optuna's
        search_space_bounds: NDArray[np.float64],
    ) -> float:
        return float(rng.uniform(*search_space_bounds))


def _succeeded(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
