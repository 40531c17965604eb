"""Finalists for the select split: the best candidates, the optimizer's recommendation, the strongest baselines."""

import numpy as np

from evomerge.objective import Objective
from evomerge.objective.score import task_difference
from evomerge.results.ranking import Ranking, SelectionError, losses_of, non_dominated, ranked
from evomerge.results.scored import ScoredModel
from evomerge.statistics import pareto
from evomerge.study import Study
from evomerge.trial import UNIFORM, Origin, Trial

#: How many of the search's best candidates meet on the select split.
FINALISTS = 8
#: How many of a Pareto search's front do.
FRONT_FINALISTS = 16
#: How many of the other baselines do (the task-arithmetic grid): neighbors on the grid differ by less than the noise.
GRID_FINALISTS = 2


def finalists(study: Study, objective: Objective) -> list[Trial]:
    """Return the trials for the select split; one parent comes twice, to measure the noise of scoring itself.

    Raises SelectionError when nothing has scores.
    """
    ranking = Ranking(study, objective, "search")
    if not ranking.models:
        raise SelectionError("No candidate of this study has scores; see the failures in `evomerge status`.")
    searched = ranked(ranking.candidates)
    chosen = _spread(non_dominated(searched), ranking.parents) if objective.pareto else searched[:FINALISTS]
    recommended = [model for model in searched if model.kind == "recommended" and model not in chosen]
    named = [*chosen, *recommended, *strongest_baselines(ranking, GRID_FINALISTS)]
    trials = [model.trial.changed(label=model.label) for model in named]
    experts = [model.trial for model in named if model.kind == "parent"]
    again = [trial.changed(label=Origin.RERUN.label(trial.label)) for trial in experts[:1]]
    # On this split nothing is scored yet that a trial could extend.
    return [trial.changed(split="select", extends=None, cost=1.0) for trial in trials + again]


def strongest_baselines(ranking: Ranking, n_grid: int) -> list[ScoredModel]:
    """Return the baselines to score on the next split, in order of completion.

    Always the base and the uniform average. Every expert, unless another one was shown to be better on every task
    (at 5 %). Of the other baselines, which are a grid of task arithmetic, the best `n_grid` by the objective.
    """
    experts = [model for model in ranking.models if model.kind == "parent"]
    weak = [model for model in experts if any(_shown_better(other, model) for other in experts)]
    weak += ranked(model for model in ranking.averages if model.label != UNIFORM)[n_grid:]
    return [model for model in ranking.models if not model.is_candidate and model not in weak]


def _shown_better(model: ScoredModel, other: ScoredModel) -> bool:
    """Return whether the first model was shown to be better on every task that has examples."""
    objective = model.objective
    tasks = [task for task in objective.weights if task not in objective.whole_model]
    return bool(tasks) and all(task_difference(objective, t, model.scores, other.scores).shown for t in tasks)


def _spread(front: list[ScoredModel], parents: list[ScoredModel]) -> list[ScoredModel]:
    """Choose at most FRONT_FINALISTS of a front: the first, then repeatedly the one that adds most hypervolume."""
    if len(front) <= FRONT_FINALISTS:
        return front
    losses, everything = losses_of(front), losses_of([*front, *parents])
    low, high = everything.min(axis=0), everything.max(axis=0)
    reference = high + 0.1 * np.where(high > low, high - low, 1.0)  # so that the ends of the front count too
    chosen = [0]
    while len(chosen) < FRONT_FINALISTS:
        rest = [row for row in range(len(front)) if row not in chosen]
        chosen.append(max(rest, key=lambda row: pareto.hypervolume(losses[[*chosen, row]], reference)))
    return [front[row] for row in chosen]
