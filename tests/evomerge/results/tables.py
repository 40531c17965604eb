"""Studies whose models score what a table says, scored by the real executor and driver."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluators.base import Scores
from evomerge.execution.serial import SerialExecutor
from evomerge.loop import score_all
from evomerge.objective import Objective
from evomerge.recipe import Input, Merge, Recipe
from evomerge.study import Study
from evomerge.trial import Outcome, Trial
from search_spaces.base import CoefficientTable

#: task -> share of right answers, by name of the model: a baseline's label, or `x3` for the point 0.03.
Table = Mapping[str, Mapping[str, float]]


class TableBench:
    """Scores by table. A model is named `split/NAME` where it scores something else on one split."""

    def __init__(self, table: Table, n_examples: int) -> None:
        self._table, self._n = table, n_examples

    def run(self, trial: Trial) -> Outcome:
        name = trial.label.removeprefix("rerun:") if trial.x is None else f"x{round(100 * trial.x[0])}"
        row = self._table.get(f"{trial.split}/{name}", self._table.get(name))
        assert row is not None, name
        ids = tuple(f"{trial.split} {n}" for n in range(self._n))
        right = {task: np.arange(self._n) < round(self._n * share) for task, share in row.items()}
        return Outcome(trial.number, {task: Scores(ids, values.astype(float)) for task, values in right.items()})


def baseline(label: str) -> Trial:
    recipe = Recipe(Input("base", "b"), (Input("a", "a"),), "linear")
    merge = Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": np.array([[1.0]])}))
    return Trial(-1, None, merge=merge, label=label)


def searched(folder: Path, objective: Objective, table: Table, n_examples: int = 10) -> tuple[Study, SerialExecutor]:
    """A study in which every model of the table has been scored on the search split, baselines first."""
    study = Study.create(folder, {}, {})
    executor = SerialExecutor(lambda: TableBench(table, n_examples))
    names = [name for name in table if "/" not in name]
    trials = [baseline(name) for name in names if not name.startswith("x")]
    trials += [Trial(-1, np.array([int(name[1:]) / 100]), label=f"p{name}") for name in names if name.startswith("x")]
    assert score_all(study, executor, objective, trials, phase="search").kind == "done"
    return study, executor
