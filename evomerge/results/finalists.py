"""The models scored on the select split: the best of the search, its recommendation, the strongest baselines."""

from dataclasses import replace

import numpy as np

from evomerge.objective import Objective
from evomerge.objective.score import task_difference
from evomerge.results.ranking import Ranking, SelectionError, scores_of
from evomerge.statistics import pareto
from evomerge.study import Entry, Study
from evomerge.trial import UNIFORM, Origin, Trial

#: How many of the search's best candidates meet on the select split.
FINALISTS = 8
#: How many of a Pareto search's front do.
FRONT_FINALISTS = 16
#: How many of the other baselines do (the task-arithmetic grid): neighbors on the grid differ by less than the noise.
GRID_FINALISTS = 2


def finalists(study: Study, objective: Objective) -> list[Trial]:
    """The trials for the select split; one parent comes twice, so that the noise of scoring itself is seen.

    Raises SelectionError when nothing has scores.
    """
    ranking = Ranking(study, objective, "search")
    if not ranking.entries:
        raise SelectionError("No candidate of this study has scores; see the failures in `evomerge status`.")
    searched = sorted((e for e in ranking.entries if e.trial.merge is None), key=ranking.key)
    chosen = _spread(ranking, ranking.front(searched)) if objective.pareto else searched[:FINALISTS]
    recommended = [e for e in searched if e.trial.origin is Origin.RECOMMENDED and e not in chosen]
    named = [replace(entry.trial, label=Origin.CANDIDATE.label(entry.trial.number)) for entry in chosen + recommended]
    named += [entry.trial for entry in strongest_baselines(ranking, GRID_FINALISTS)]
    experts = [trial for trial in named if trial.origin is Origin.PARENT]
    again = [replace(trial, label=Origin.RERUN.label(trial.label)) for trial in experts[:1]]
    return [replace(trial, split="select") for trial in named + again]


def strongest_baselines(ranking: Ranking, n_grid: int) -> list[Entry]:
    """The baselines worth scoring on the next split, judged on the ranking's split, in telling order.

    Always the base and the uniform average. Every expert, unless another one was shown to be better on every task
    (at 5 %). Of the other baselines, which are a grid of task arithmetic, the best `n_grid` by the objective.
    """
    baselines = [entry for entry in ranking.entries if entry.trial.merge is not None]
    experts = [entry for entry in baselines if entry.trial.origin is Origin.PARENT]
    grid = [e for e in baselines if e.trial.origin is Origin.BASELINE and e.trial.label != UNIFORM]
    weak = [entry for entry in experts if any(_shown_better(ranking.objective, other, entry) for other in experts)]
    weak += sorted(grid, key=ranking.key)[n_grid:]
    return [entry for entry in baselines if entry not in weak]


def _shown_better(objective: Objective, entry: Entry, other: Entry) -> bool:
    """Whether the first was shown to be better on every task that has examples."""
    tasks = [task for task in objective.weights if task not in objective.whole_model]
    scores = scores_of(entry), scores_of(other)
    return bool(tasks) and all(task_difference(objective, task, *scores).shown for task in tasks)


def _spread(ranking: Ranking, front: list[Entry]) -> list[Entry]:
    """At most FRONT_FINALISTS of a front: the first, then always the one that adds most to the hypervolume."""
    if len(front) <= FRONT_FINALISTS:
        return front
    losses = ranking.losses(front)
    everything = np.concatenate([losses, ranking.losses(e for e in ranking.entries if e.trial.origin.is_parent)])
    low, high = everything.min(axis=0), everything.max(axis=0)
    reference = high + 0.1 * np.where(high > low, high - low, 1.0)  # so that the ends of the front count too
    chosen = [0]
    while len(chosen) < FRONT_FINALISTS:
        rest = [row for row in range(len(front)) if row not in chosen]
        chosen.append(max(rest, key=lambda row: pareto.hypervolume(losses[[*chosen, row]], reference)))
    return [front[row] for row in chosen]
