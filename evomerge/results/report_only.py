"""Tasks that are only reported: scored with the models of the report split, never searched or selected on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.score import are_shares, task_difference, task_estimate
from evomerge.results.scored import ScoredModel
from evomerge.results.verdict import Claim, change
from evomerge.statistics import Difference, Estimate
from evomerge.study import Study
from evomerge.text.masking import masked_data

#: Event that records the tasks that are only reported, and what their evaluators say of them.
EVENT = "report_only"


@dataclass(frozen=True)
class ReportedTask:
    """One task that is only reported, over the models of the report split.

    estimates: label -> mean; models without a score of every example are left out. lower_is_better, share: its unit.
    parent: the one that scores best on it. lead: the winner's over it, paired; both None where a score is missing. The
    parent is the best of several on these very examples, so the lead is a little too small. It is not tested.
    """

    task: str
    estimates: Mapping[str, Estimate]
    lower_is_better: bool
    share: bool
    parent: str | None = None
    lead: Difference | None = None


def record_reported(study: Study, configuration: Mapping[str, Any], objective: Objective | None) -> bool:
    """Write down the tasks that are only reported, where they differ from the last record; return whether they did.

    configuration: of these tasks, as plain data. objective: over them, None without any.
    """
    configuration = masked_data(configuration)
    if reported_tasks(study) == configuration:
        return False
    lower = objective.lower_is_better if objective is not None else ()
    whole = objective.whole_model if objective is not None else ()
    study.event(
        EVENT,
        tasks=dict(configuration),
        lower_is_better=[task for task in configuration if task in lower],
        whole_model=[task for task in configuration if task in whole],
    )
    return True


def reported_tasks(study: Study) -> Mapping[str, Any]:
    """Return the configuration of the tasks that are only reported, by name."""
    tasks: Mapping[str, Any] = _recorded(study).get("tasks", {})
    return tasks


def reported_objective(study: Study) -> Objective | None:
    """Return the tasks that are only reported as an objective; None without any."""
    said = _recorded(study)
    if not said.get("tasks"):
        return None
    return Objective(
        dict.fromkeys(said["tasks"], 1.0),
        frozenset(said["lower_is_better"]),
        whole_model=frozenset(said["whole_model"]),
    )


def report_only(study: Study, models: Sequence[ScoredModel]) -> tuple[ReportedTask, ...]:
    """Return the tasks that are only reported. models: those of the report split, the winner first."""
    objective = reported_objective(study)
    if objective is None or not models:
        return ()
    return tuple(_reported(study, objective, task, models) for task in objective.weights)


def report_only_sentence(winner: str, found: Sequence[ReportedTask]) -> str:
    """Say how the winner scores on tasks that are only reported; empty without any."""
    named = [_said(winner, each) for each in found]
    return f"Reported only, neither searched nor selected on: {'; '.join(named)}." if named else ""


def _recorded(study: Study) -> Mapping[str, Any]:
    return next((data for kind, data in reversed(study.events) if kind == EVENT), {})


def _reported(study: Study, objective: Objective, task: str, models: Sequence[ScoredModel]) -> ReportedTask:
    scores = {model.label: found for model in models if (found := _scores(study, task, model)) is not None}
    estimates = {label: task_estimate(objective, task, found) for label, found in scores.items()}
    lower = task in objective.lower_is_better
    share = are_shares(objective, task, [{task: found} for found in scores.values()])
    parents = [model.label for model in models if model.is_parent and model.label in scores]
    winner = models[0].label
    if not parents or winner not in scores:
        return ReportedTask(task, estimates, lower, share)
    best = max(parents, key=lambda label: objective.sign(task) * estimates[label].mean)
    lead = task_difference(objective, task, {task: scores[winner]}, {task: scores[best]})
    return ReportedTask(task, estimates, lower, share, best, lead)


def _scores(study: Study, task: str, model: ScoredModel) -> Scores | None:
    outcome = study.entries[model.trial.number].outcome
    found = None if outcome is None else outcome.scores.get(task)
    return found if found is not None and found.is_complete else None


def _said(winner: str, found: ReportedTask) -> str:
    if winner not in found.estimates:
        return f"{found.task} has no score of every example"
    mean = f"{found.task} {found.estimates[winner].mean:.4g}"
    if found.parent is None or found.lead is None:
        return mean
    objective = Objective({found.task: 1.0}, frozenset([found.task] if found.lower_is_better else []))
    claim = Claim(found.task, found.parent, found.lead, found.lead.p)
    gap = change(objective, claim, [found.task] if found.share else [])
    return f"{mean} ({gap}, against {found.parent}, the best parent on it)"
