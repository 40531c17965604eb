"""Select and report: the finalists are scored, one is chosen, and the report split is looked at once."""

from collections.abc import Callable, Hashable, Sequence

from evomerge.budget import candidates
from evomerge.execution.base import Executor
from evomerge.failures import diagnose, failed_on, forgiven
from evomerge.loop import Ending, Progress, StopRequest, never, pause, score_all
from evomerge.objective import Objective
from evomerge.results.finalists import finalists, strongest_baselines
from evomerge.results.ranking import Ranking, best, non_dominated
from evomerge.results.report_only import reported_tasks
from evomerge.results.result import chosen, was_chosen
from evomerge.study import Study
from evomerge.trial import FloatArray, Origin, Trial


def select(
    study: Study,
    executor: Executor,
    objective: Objective,
    recommended: FloatArray | None,
    *,
    seed: int = 0,
    same: Callable[[Trial], Hashable | None] = never,
    stop: StopRequest | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Ending:
    """Score the finalists on select, then what is reported on report; record the choice.

    recommended: the optimizer's own idea, (dimension,); it is scored on the search split first, as a candidate
    beyond the budget. What the study has is not scored again; a study that was searched on selects anew.
    same: see `search`.
    """

    def score(trials: Sequence[Trial], phase: str) -> Ending:
        return score_all(study, executor, objective, trials, phase=phase, same=same, stop=stop, progress=progress)

    n_candidates = candidates(study)
    if recommended is not None:
        ending = score([Trial(-1, recommended, label=Origin.RECOMMENDED.label(n_candidates), seed=seed)], "search")
        if ending.kind != "done":
            return ending
    ending = score(finalists(study, objective), "select")
    if ending.kind != "done":
        return ending
    if not was_chosen(study, n_candidates) and not _choose(study, objective, n_candidates):
        return pause(study, diagnose("every finalist failed on the select split", failed_on(study, "select")))
    trials = _for_report(study, objective)
    read = {e.trial.label for e in study.entries.values() if e.trial.split == "report"}
    if any(trial.label not in read for trial in trials):
        study.event("report_split_read", winner=chosen(study).label)
    ending = score(trials, "report")
    if ending.kind == "done" and not _is_reported(study):
        return pause(study, diagnose("the winner has no score on the report split", failed_on(study, "report")))
    return ending


def is_complete(study: Study, objective: Objective) -> bool:
    """Return whether `select` has nothing to do: the winner among all candidates so far is selected and reported."""
    if study.pending or not was_chosen(study, candidates(study)):
        return False
    again = forgiven(study)
    asked = {(e.trial.label, e.trial.split) for e in study.entries.values() if e.trial.number not in again}
    wanted = [*finalists(study, objective), *_for_report(study, objective)]
    return all((trial.label, trial.split) in asked for trial in wanted) and _is_reported(study)


def _is_reported(study: Study) -> bool:
    label = chosen(study).label
    return any(e.trial.label == label and e.losses is not None for e in study.told if e.trial.split == "report")


def _choose(study: Study, objective: Objective, n_candidates: int) -> bool:
    """Record the best merge on the select split; a parent is no merge, but it stays in the comparison. False without.

    front: of a Pareto search, the merges that no model dominates there. keeps: whether the winner meets the
    constraints.
    """
    ranking = Ranking(study, objective, "select")
    winner = best(ranking.merges)
    if winner is None:
        return False
    front = non_dominated(ranking.models) if objective.pareto else []
    study.event(
        "selected",
        label=winner.label,
        candidates=n_candidates,
        keeps=winner.keeps if objective.keep else None,
        front=[model.label for model in front if not model.is_parent],
        scale={task: list(ends) for task, ends in ranking.reference.display.scale.items()},
    )
    return True


def _for_report(study: Study, objective: Objective) -> list[Trial]:
    """The winner, the front of a Pareto search, then the baselines that are the strongest on the select split.

    The other parents follow where tasks are only reported: one of them may be the best on such a task.
    """
    choice = chosen(study)
    on_select = [entry.trial for entry in study.entries.values() if entry.trial.split == "select"]
    on_select = [trial for trial in on_select if trial.origin is not Origin.RERUN]
    wanted = [trial for trial in on_select if trial.label == choice.label]
    wanted += [trial for trial in on_select if trial.label in choice.front and trial not in wanted]
    strongest = [model.trial for model in strongest_baselines(Ranking(study, objective, "select"), n_grid=1)]
    wanted += [trial for trial in strongest if trial not in wanted]
    if reported_tasks(study):
        named = {trial.label for trial in wanted}
        parents = [model.trial for model in Ranking(study, objective, "search").parents if model.label not in named]
        wanted += [trial.changed(extends=None, cost=1.0) for trial in parents]
    return [trial.changed(split="report") for trial in wanted]
