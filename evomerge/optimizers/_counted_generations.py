"""Generations counted off from the told trials: what the two genetic plug-ins share around Optuna's samplers.

Optuna reads labels that were written at the ask, so whatever several slots ask for at once is one generation. Here
generation g is the g-th `population` succeeded trials in the order of telling, baselines included: several slots
waste nothing, and with one slot this is Optuna's own counting.
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
    """To be put before one of Optuna's genetic samplers, whose generations it counts."""

    #: Study numbers of the parents of generation 1, 2, ...; a memo, filled as generations end.
    parents: list[list[int]]
    #: The sampler that chooses the parents of a generation, so that the choice does not depend on which trial asks.
    chooser: Callable[[int], "CountedGenerations"]

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:  # noqa: ARG002 - Optuna's
        """The generation that is under way now."""
        return len(_succeeded(study)) // self._size

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The trials of a generation."""
        return _succeeded(study)[generation * self._size : (generation + 1) * self._size]

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Whom a generation descends from; nobody for the first."""
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
            raise RuntimeError("Optuna made a genetic sampler without a population size.")
        return self.population_size


class Population:
    """The told trials, and what a genetic sampler makes of them.

    Uniform crossover, and mutation by a new draw: at 100 to 200 trials of 7 and 30 coordinates better than
    polynomial mutation.
    """

    def __init__(
        self,
        sampler: Callable[..., CountedGenerations],
        shape: tuple[int, int],
        size: int,
        seeds: Callable[[int], int],
    ) -> None:
        """sampler: a class. shape: (dimension, n_objectives). size: trials per generation. seeds: number -> 32 bits.

        Raises OptimizerError for fewer than two trials per generation.
        """
        if size < 2:
            raise OptimizerError(f"population must be at least 2; it is {size}.")
        self._sampler = sampler
        self._size = size
        self._seeds = seeds
        #: By generation, from the second one on, the trials that it descends from, by their place among the told.
        self.parents: list[list[int]] = []
        self._view = OptunaView(*shape)

    def ask(self, number: int, pending: Mapping[int, FloatArray]) -> FloatArray:
        """The point for trial `number`, (dimension,)."""
        return self._view.suggest(self._made(number), pending)

    def tell(self, observation: Observation) -> None:
        """Append a trial."""
        self._view.tell(observation)

    def _made(self, number: int) -> CountedGenerations:
        with warnings.catch_warnings():
            # NSGA-III and operators of one's own are marked experimental.
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = self._sampler(population_size=self._size, seed=self._seeds(number), mutation=_NewDraw())
        sampler.parents = self.parents
        sampler.chooser = self._made
        return sampler


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


def _succeeded(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
