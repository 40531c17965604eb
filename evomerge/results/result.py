"""The result of a study, from its ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore, are_shares, task_difference
from evomerge.results.flips import Flips, flips, flips_sentence
from evomerge.results.range_ends import RangeEnd, ends_sentence, range_ends
from evomerge.results.ranking import Ranking, SelectionError, best, best_on
from evomerge.results.report_only import ReportedTask, report_only, report_only_sentence
from evomerge.results.scored import ScoredModel, scores_of
from evomerge.results.verdict import Claim, Repeat, verdict
from evomerge.statistics import Difference, holm
from evomerge.study import Study
from evomerge.trial import MERGES_TOKENIZER, Origin, Trial, detail_of


@dataclass(frozen=True)
class Selected:
    """The recorded choice of a winner. front, keeps, scale: see `Selection`."""

    label: str
    front: tuple[str, ...]
    keeps: bool | None
    scale: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, repr=False)
class Selection:
    """The result of a study: the winner's trial on the report split and everything it was compared with.

    models: on the report split, the winner first, then the others, best score first. leads: label -> how far the winner
    is ahead of another model, paired. verdict: the sentences to print and to believe.
    baseline: the best merge on the select split that was not searched, such as `task_arithmetic:0.8`.
    claims: task by task, the winner against the parent that is best on it. keeps: whether the winner keeps what the
    search file asks for, None where it asks nothing. front: the merges of a Pareto search that no model dominates on
    the select split. range_ends: the coordinates of the winner that lie at an end of what was searched. scale: task ->
    (worst, best) that are 0 and 1 in scores; empty where tasks keep their unit. flips: label -> answers that the model
    lost and gained against the best parent of every task. report_only: the tasks that are only reported.
    """

    winner: Trial
    models: tuple[ScoredModel, ...]
    leads: Mapping[str, Difference]
    verdict: str
    looks: int
    claims: tuple[Claim, ...] = ()
    keeps: bool | None = None
    front: tuple[str, ...] = ()
    scale: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    repeat: Repeat | None = None
    baseline: str | None = None
    range_ends: tuple[RangeEnd, ...] = ()
    flips: Mapping[str, tuple[Flips, ...]] = field(default_factory=dict)
    report_only: tuple[ReportedTask, ...] = ()

    def __repr__(self) -> str:
        return f"Selection(winner={self.winner.label!r}, models={len(self.models)})"


def was_chosen(study: Study, candidates: int) -> bool:
    """Return whether a winner was selected among this number of candidates."""
    return any(kind == "selected" and data["candidates"] == candidates for kind, data in study.events_since)


def chosen(study: Study) -> Selected:
    """Return the last choice. Raises SelectionError while there is none."""
    data = next((data for kind, data in reversed(study.events_since) if kind == "selected"), None)
    if data is None:
        raise SelectionError("No winner has been selected yet: the search is not finished.")
    scale = {task: (float(worst), float(best)) for task, (worst, best) in data.get("scale", {}).items()}
    return Selected(str(data["label"]), tuple(data.get("front", ())), data.get("keeps"), scale)


def selection(study: Study, objective: Objective) -> Selection:
    """Read the result from the ledger. Raises SelectionError while there is none."""
    choice, objective = chosen(study), objective.by_metric
    stick = DisplayScore(objective, choice.scale)
    ranking, on_select = Ranking(study, objective, "report", stick), Ranking(study, objective, "select")
    by_label = {model.label: model for model in ranking.models}
    if choice.label not in by_label:
        raise SelectionError("The winner has no score on the report split yet: the search is not finished.")
    winner = by_label[choice.label]
    others = sorted((m for m in ranking.models if m is not winner), key=lambda model: -model.score.mean)
    leads = {other.label: stick.difference(winner.scores, other.scores) for other in others}
    rivals = _best_parents(objective, by_label, on_select)
    claims = _claims(winner, rivals)
    flipped = {model.label: flips(model, rivals) for model in ranking.models}
    repeat = _repeat(study, stick)
    baseline = best(model for model in on_select.averages if model.label in by_label)
    said = verdict(
        (winner, *others),
        leads,
        claims,
        shares=[task for task in objective.weights if are_shares(objective, task, (m.scores for m in ranking.models))],
        keeps=choice.keeps,
        repeat=repeat,
        baseline=None if baseline is None else by_label[baseline.label],
    )
    lead = None if baseline is None else leads.get(baseline.label)
    level = [] if baseline is None or lead is None or lead.shown else [by_label[baseline.label].trial]
    ends = ends_sentence(study, winner.trial, *level)
    only = report_only(study, (winner, *others))
    flips_said = flips_sentence(winner.label, flipped[winner.label])
    return Selection(
        winner=winner.trial,
        models=(winner, *others),
        leads=leads,
        verdict=" ".join(
            filter(None, (said, flips_said, report_only_sentence(winner.label, only), _borrowed(study), ends))
        ),
        looks=sum(kind == "report_split_read" for kind, _ in study.events),
        claims=claims,
        keeps=choice.keeps,
        front=choice.front,
        scale=choice.scale,
        repeat=repeat,
        baseline=None if baseline is None else baseline.label,
        range_ends=range_ends(study, winner.trial.x),
        flips=flipped,
        report_only=only,
    )


def _borrowed(study: Study) -> str:
    """Name the parents that were scored with the merge's tokenizer although their own reads the tasks differently."""
    why: Mapping[str, str] = study.environment.get(MERGES_TOKENIZER, {})
    if not why:
        return ""
    named = ", ".join(f"{label} ({reason})" for label, reason in why.items())
    return f"Scored with the merge's tokenizer, though their own reads the tasks otherwise: {named}."


def _best_parents(
    objective: Objective, reported: Mapping[str, ScoredModel], on_select: Ranking
) -> dict[str, ScoredModel]:
    """Return the best parent of every task as it was reported, chosen on the select split to avoid bias."""
    parents = [model for model in on_select.parents if model.label in reported]
    best_by_task = ((task, best_on(column, parents)) for column, task in enumerate(objective.weights))
    return {task: reported[parent.label] for task, parent in best_by_task if parent is not None}


def _claims(winner: ScoredModel, rivals: Mapping[str, ScoredModel]) -> tuple[Claim, ...]:
    """Compare the winner with the best parent of every task, where there are several tasks."""
    objective = winner.objective
    if len(objective.weights) < 2:
        return ()
    found = {
        task: (rival.label, task_difference(objective, task, winner.scores, rival.scores))
        for task, rival in rivals.items()
        if task not in objective.whole_model
    }
    adjusted = holm({task: gap.p for task, (_, gap) in found.items()})
    return tuple(Claim(task, label, gap, adjusted[task]) for task, (label, gap) in found.items())


def _repeat(study: Study, stick: DisplayScore) -> Repeat | None:
    """Return the last rerun on the select split; None without one."""
    on_select = {e.trial.label: e for e in study.told if e.trial.split == "select" and e.losses is not None}
    reruns = [entry for entry in on_select.values() if entry.trial.origin is Origin.RERUN]
    pairs = [(on_select.get(detail_of(again.trial.label)), again) for again in reruns]
    found = [(first, again) for first, again in pairs if first is not None]
    if not found:
        return None
    first, again = (scores_of(entry, stick.objective) for entry in found[-1])
    return Repeat(
        found[-1][0].trial.label,
        {task: int(np.sum(first[task].values != again[task].values)) for task in first},
        {task: len(first[task].values) for task in first},
        {task: again[task].mean - first[task].mean for task in first},
        stick.score(again) - stick.score(first),
    )
