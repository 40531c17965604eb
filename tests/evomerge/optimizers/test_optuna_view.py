"""What the Optuna plug-ins share: a study per ask, nothing printed, nothing left behind; NSGA-II's generations."""

import numpy as np
import optuna
import pytest

from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers.base import Observation
from evomerge.optimizers.nsga2 import Nsga2
from evomerge.optimizers.tpe import Tpe
from tests.contracts.optimizer import quadratic


class Recorder(optuna.samplers.RandomSampler):
    """Keeps the states, points and losses that a sampler sees."""

    def infer_relative_search_space(self, study, trial):
        self.seen = [
            (t.state.name, list(t.params.values()), t.values)
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number
        ]
        return super().infer_relative_search_space(study, trial)


def test_a_sampler_sees_the_told_in_order_and_the_pending() -> None:
    view = OptunaView(12, 2)
    points = [np.arange(12) / (n + 12) for n in range(3)]
    view.tell(Observation(7, points[0], np.array([1.0, 2.0])))
    view.tell(Observation(3, points[1], None))
    recorder = Recorder(seed=0)
    first = view.suggest(recorder, {9: points[2]})
    assert recorder.seen == [
        ("COMPLETE", points[0].tolist(), [1.0, 2.0]),
        ("FAIL", points[1].tolist(), None),
        ("RUNNING", points[2].tolist(), None),
    ]
    assert view.n_succeeded == 1
    view.suggest(recorder, {})
    assert len(recorder.seen) == 2
    assert view.suggest(Recorder(seed=0), {9: points[2]}).tolist() == first.tolist()


def test_nothing_is_printed_and_the_users_verbosity_stays(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    Tpe(2, 1, 0).ask(0)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize("n_objectives", [1, 2])
def test_generations_are_those_that_optuna_counts(n_objectives: int) -> None:
    """Parents after each trial equal Optuna's own, whose labels and cache live in one growing study."""
    optuna_sampler = optuna.samplers.NSGAIISampler(population_size=4, seed=0)
    with_labels = optuna.create_study(directions=["minimize"] * n_objectives, sampler=optuna_sampler)
    optimizer = Nsga2(3, n_objectives, 0, population=4)
    names = [f"x{i:05d}" for i in range(3)]
    space = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names}
    parents = []
    for number in range(30):
        trial = with_labels.ask(space)
        x = np.array([trial.params[name] for name in names])
        losses = quadratic(x, n_objectives)
        with_labels.tell(trial, losses.tolist())
        optimizer.tell(Observation(number, x, losses))
        optimizer.ask(number + 1)
        parents = optuna_sampler.get_parent_population(with_labels, (number + 1) // 4)
        if parents:
            assert sorted(optimizer._population.parents[-1]) == sorted(trial.number for trial in parents)
    assert len(parents) == 4


def test_many_generations_after_a_resume() -> None:
    """The parents of every generation are computed one after the other, not by recursion."""
    optimizer = Nsga2(1, 1, 0, population=2)
    for number in range(1600):
        optimizer.tell(Observation(number, np.array([number / 1600]), np.array([float(number)])))
    assert optimizer.ask(1600).x.shape == (1,)
