"""An Optuna study made anew for every ask: what was told, what is pending, and nothing else.

So a sampler is a pure function of the history, and nothing that an ask writes stays behind.
"""

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.optimizers.base import Observation

FloatArray = NDArray[np.float64]

_STUDY = "history"
_EPOCH = datetime.fromtimestamp(0, UTC)


class _Shared(dict[str, Any]):
    """A dictionary that nobody changes, so that a deep copy of a trial shares it: 1000 trials in 20 ms."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


class OptunaView:
    """The told history as Optuna trials, in the order of telling; failures as FAIL, which samplers skip."""

    def __init__(self, dimension: int, n_objectives: int) -> None:
        self._n_objectives = n_objectives
        # Optuna sorts parameters by name, so the names must sort like the coordinates.
        names = [f"x{index:05d}" for index in range(dimension)]
        self._distributions: dict[str, BaseDistribution] = _Shared({n: FloatDistribution(0.0, 1.0) for n in names})
        self._told: list[FrozenTrial] = []
        self._n_succeeded = 0

    @property
    def n_succeeded(self) -> int:
        """Number of told trials that did not fail."""
        return self._n_succeeded

    def tell(self, observation: Observation) -> None:
        """Append a trial."""
        if observation.losses is None:
            self._told.append(self._trial(observation.x, TrialState.FAIL))
        else:
            self._n_succeeded += 1
            self._told.append(self._trial(observation.x, TrialState.COMPLETE, observation.losses.tolist()))

    def suggest(self, sampler: BaseSampler, pending: Mapping[int, FloatArray]) -> FloatArray:
        """What `sampler` proposes after the told history, with `pending` as running trials: (dimension,)."""
        with _quiet():
            storage = InMemoryStorage()
            study_id = storage.create_new_study([StudyDirection.MINIMIZE] * self._n_objectives, _STUDY)
            for trial in self._told:
                storage.create_new_trial(study_id, trial)
            for x in pending.values():
                storage.create_new_trial(study_id, self._trial(x, TrialState.RUNNING))
            study = optuna.Study(_STUDY, storage, sampler=sampler)
            params = study.ask(dict(self._distributions)).params
        return np.array([params[name] for name in self._distributions], dtype=np.float64)

    def _trial(self, x: FloatArray, state: TrialState, values: list[float] | None = None) -> FrozenTrial:
        # Not `create_trial`: it copies the distributions, and every ask would copy them again.
        return FrozenTrial(
            number=-1,
            trial_id=-1,
            state=state,
            value=None,
            values=values,
            params=_Shared(zip(self._distributions, x.tolist(), strict=True)),
            distributions=self._distributions,
            datetime_start=_EPOCH,
            datetime_complete=_EPOCH if state.is_finished() else None,
            user_attrs=_Shared(),
            system_attrs=_Shared(),
            intermediate_values={},
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces every study on standard error; only its errors are worth a line."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
