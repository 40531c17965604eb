"""The result of a study, read off its ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore, are_shares, task_difference, task_estimate
from evomerge.results.range_ends import RangeEnd, ends_sentence, range_ends
from evomerge.results.ranking import Ranking, SelectionError, scores_of
from evomerge.results.verdict import Claim, Repeat, Rival, Standing, verdict
from evomerge.statistics import holm
from evomerge.study import Entry, Study
from evomerge.trial import MERGES_TOKENIZER, Origin, Trial, detail_of


@dataclass(frozen=True)
class Choice:
    """What was selected. front, keeps, scale: see `Selection`."""

    label: str
    front: tuple[str, ...]
    keeps: bool | None
    scale: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Selection:
    """The result of a study: the winner's trial on the report split and everything it was compared with.

    standings: winner first, then the others, best first. verdict: the sentences to print and to believe.
    baseline: the best merge on the select split that was not searched, such as `task_arithmetic:0.8`.
    claims: task by task, the winner against the parent that is best on it. keeps: whether the winner keeps what the
    search file asks for, None where it asks nothing. front: the merges of a Pareto search that no model beats on the
    select split. range_ends: the coordinates of the winner that lie at an end of what was searched. scale: task ->
    (worst, best) that are 0 and 1 in scores; empty where tasks keep their unit.
    """

    winner: Trial
    standings: tuple[Standing, ...]
    verdict: str
    looks: int
    claims: tuple[Claim, ...] = ()
    keeps: bool | None = None
    front: tuple[str, ...] = ()
    scale: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    repeat: Repeat | None = None
    baseline: str | None = None
    range_ends: tuple[RangeEnd, ...] = ()


def was_chosen(study: Study, candidates: int) -> bool:
    """Whether a winner was selected among so many candidates."""
    return any(kind == "selected" and data["candidates"] == candidates for kind, data in study.events)


def chosen(study: Study) -> Choice:
    """The last choice. Raises SelectionError while there is none."""
    data = next((data for kind, data in reversed(study.events) if kind == "selected"), None)
    if data is None:
        raise SelectionError("No winner has been selected yet: the search is not finished.")
    scale = {task: (float(worst), float(best)) for task, (worst, best) in data.get("scale", {}).items()}
    return Choice(str(data["label"]), tuple(data.get("front", ())), data.get("keeps"), scale)


def selection(study: Study, objective: Objective) -> Selection:
    """Read the result off the ledger. Raises SelectionError while there is none."""
    choice = chosen(study)
    ranking = Ranking(study, objective, "report")
    by_label = {entry.trial.label: entry for entry in ranking.entries}
    if choice.label not in by_label:
        raise SelectionError("The winner has no score on the report split yet: the search is not finished.")
    winner = by_label.pop(choice.label)
    stick = DisplayScore(objective, choice.scale)
    others = sorted((_standing(stick, e, winner) for e in by_label.values()), key=lambda s: -s.score.mean)
    standings = (_standing(stick, winner, None), *others)
    claims = _claims(study, objective, winner, by_label)
    models = [scores_of(entry) for entry in ranking.entries]
    shares = [task for task in objective.weights if are_shares(objective, task, models)]
    repeat = _repeat(study, stick)
    rival = _rival(study, objective, winner, by_label)
    said = verdict(
        objective,
        standings,
        claims,
        shares=shares,
        scale=stick.text,
        keeps=choice.keeps,
        repeat=repeat,
        rival=rival,
    )
    ends = ends_sentence(study, winner.trial, *_level(standings, by_label, rival))
    return Selection(
        winner=winner.trial,
        standings=standings,
        verdict=" ".join(filter(None, (said, _borrowed(study), ends))),
        looks=sum(kind == "report_split_read" for kind, _ in study.events),
        claims=claims,
        keeps=choice.keeps,
        front=choice.front,
        scale=choice.scale,
        repeat=repeat,
        baseline=None if rival is None else rival.label,
        range_ends=range_ends(study, winner.trial.x),
    )


def _borrowed(study: Study) -> str:
    """Which parents were scored with the merge's tokenizer, though their own makes a difference; also weak ones."""
    why: Mapping[str, str] = study.environment.get(MERGES_TOKENIZER, {})
    if not why:
        return ""
    named = ", ".join(f"{label} ({reason})" for label, reason in why.items())
    return f"Scored with the merge's tokenizer, though their own reads the tasks otherwise: {named}."


def _standing(stick: DisplayScore, entry: Entry, winner: Entry | None) -> Standing:
    scores = scores_of(entry)
    behind = None if winner is None else stick.difference(scores_of(winner), scores)
    tasks = {task: task_estimate(stick.objective, task, scores[task]) for task in scores}
    return Standing(entry.trial.label, stick.estimate(scores), tasks, behind)


def _rival(study: Study, objective: Objective, winner: Entry, others: Mapping[str, Entry]) -> Rival | None:
    """The best baseline of the select split, of those that were scored on report; it may have won."""
    on_select = Ranking(study, objective, "select")
    best = on_select.best_simple_baseline({*others, winner.trial.label})
    if best is None:
        return None
    label = best.trial.label
    here = Ranking(study, objective, "report")
    mine, its = (here.decisive(entry).get(objective.kind) for entry in (winner, others.get(label, winner)))
    return Rival(label, on_select.excess(best) == 0, None if mine is None or its is None else (mine, its))


def _level(standings: Sequence[Standing], by_label: Mapping[str, Entry], rival: Rival | None) -> list[Trial]:
    """The best baseline, where the winner was not shown to be better."""
    gaps = {standing.label: standing.behind for standing in standings}
    gap = None if rival is None else gaps.get(rival.label)
    return [] if rival is None or gap is None or gap.shown else [by_label[rival.label].trial]


def _claims(study: Study, objective: Objective, winner: Entry, others: Mapping[str, Entry]) -> tuple[Claim, ...]:
    """The winner against the best parent of every task, which is found on the select split, where it is not lucky."""
    ranking = Ranking(study, objective, "select")
    parents = [e for e in ranking.entries if e.trial.origin.is_parent and e.trial.label in others]
    tasks = [task for task in objective.weights if task not in objective.whole_model]
    if not parents or len(objective.weights) < 2:
        return ()
    losses = ranking.losses(parents)
    names = list(objective.weights)
    found = {}
    for task in tasks:
        best = parents[int(losses[:, names.index(task)].argmin())].trial.label
        found[task] = best, task_difference(objective, task, scores_of(winner), scores_of(others[best]))
    adjusted = holm({task: gap.p for task, (_, gap) in found.items()})
    return tuple(Claim(task, best, gap, adjusted[task]) for task, (best, gap) in found.items())


def _repeat(study: Study, stick: DisplayScore) -> Repeat | None:
    """The last model that was scored twice on the select split."""
    on_select = {e.trial.label: e for e in study.told if e.trial.split == "select" and e.losses is not None}
    reruns = [entry for entry in on_select.values() if entry.trial.origin is Origin.RERUN]
    pairs = [(on_select.get(detail_of(again.trial.label)), again) for again in reruns]
    found = [(first, again) for first, again in pairs if first is not None]
    if not found:
        return None
    first, again = (scores_of(entry) for entry in found[-1])
    return Repeat(
        found[-1][0].trial.label,
        {task: int(np.sum(first[task].values != again[task].values)) for task in first},
        {task: len(first[task].values) for task in first},
        {task: again[task].mean - first[task].mean for task in first},
        stick.score(again) - stick.score(first),
    )
