"""A real study with known numbers, written record by record."""

from pathlib import Path

import numpy as np

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.spec import record_objective
from evomerge.recipe import Input, Merge, Recipe
from evomerge.study import Study
from evomerge.trial import CANARY, Failure, Outcome, Trial
from search_spaces.base import CoefficientTable

CONFIGURATION = {"tasks": {"one": "synthetic", "two": "synthetic"}, "objective": {"one": 3, "two": 1}}
#: `two` counts downwards, as perplexity does.
OBJECTIVE = Objective({"one": 3.0, "two": 1.0}, frozenset({"two"}))


def baseline(weight: float) -> Merge:
    recipe = Recipe(Input("base", "b"), (Input("a", "a"),), "linear")
    return Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": np.array([[weight]])}))


def tell(study: Study, trial: Trial, one: list[float], two: list[float]) -> None:
    study.ask(trial)
    ids = tuple(f"{n:016x}" for n in range(len(one)))
    scores = {"one": Scores(ids, np.array(one)), "two": Scores(ids, np.array(two))}
    seconds = {"merge": 0.5, "evaluate:one": 1.0, "evaluate:two": 0.5}
    outcome = Outcome(trial.number, scores, seconds=seconds)
    study.tell(outcome, [float(loss) for loss in OBJECTIVE.losses(scores)])


def fail(study: Study, trial: Trial, kind: str) -> None:
    study.ask(trial)
    study.tell(Outcome(trial.number, failure=Failure(kind, f"{kind} happened")), None)


def write_study(folder: Path) -> Study:
    """Canary, two baselines, four candidates of which one failed, one pending; still open for writing."""
    study = Study.create(folder, CONFIGURATION, {})
    record_objective(study, OBJECTIVE)
    x = np.array([0.5])
    tell(study, Trial(0, x, label=CANARY), [1.0] * 4, [0.0] * 4)
    tell(study, Trial(1, None, merge=baseline(1.0), label="parent:a"), [0.5, 0.5, 0.5, 0.5], [1.0] * 4)
    tell(study, Trial(2, None, merge=baseline(0.5), label="parent:b"), [0.0, 0.5, 0.5, 0.0], [1.0] * 4)
    tell(study, Trial(3, x), [0.0, 0.0, 1.0, 0.0], [2.0] * 4)
    tell(study, Trial(4, x), [1.0, 1.0, 1.0, 0.0], [2.0, 0.0, 2.0, 0.0])
    fail(study, Trial(5, x), "NonFiniteScore")
    tell(study, Trial(6, x), [1.0, 0.0, 1.0, 0.0], [2.0] * 4)
    study.ask(Trial(7, x))
    return study
