"""Metrics and facts of a run, record by record, for every tracker."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from math import isfinite
from typing import Any

from evomerge.objective import Objective
from evomerge.results.partial import step_loss
from evomerge.results.progress import search_front
from evomerge.results.ranking import Ranking, best
from evomerge.results.scored import ScoredModel
from evomerge.run import Run
from evomerge.study import Entry
from evomerge.study.follow import Change, Follower
from evomerge.trackers.base import Point, Value
from evomerge.trial import Origin

#: Objectives up to which a hypervolume costs milliseconds; of six and a thousand points it is seconds.
FEW_OBJECTIVES = 4


class Story:
    """Converter from changes of the ledger to metrics and facts.

    Metrics of each completed trial on the search split:
    `trial` (its number), `task/...`, `seconds/...` by stage, and so far the counts `completed` and `failures`;
    `score`, where the mean of the tasks decides; `chebyshev`, `retention` or `borda`, where these decide (see
    `Reference.decisive`); `best`, of the best merge so far, baselines included; in a Pareto search of few objectives
    `hypervolume` instead, of the candidates so far. What is relative to the parents begins with the optimizer's first
    proposal, as all parents were asked for before it. Where some trials are parts, also `evaluations`, spent so far,
    and `gradient/loss`, the mean loss of the gradient steps since the trial before.
    Facts of the run: the scores of every baseline.
    """

    def __init__(self, follower: Follower) -> None:
        self._run = Run.of(follower.study)
        self._completed = self._failures = 0
        self._spent = 0.0
        self._paid: list[int] = []
        self._has_parts = False
        self._losses: list[float] = []
        self._best: float | None = None
        self._models: tuple[ScoredModel, ...] | None = None

    def tell(self, changes: Iterable[Change]) -> tuple[list[Point], dict[str, Value]]:
        """Return the metrics and facts of these changes."""
        points, facts = [], dict[str, Value]()
        self._models = None
        for change in changes:
            if change.kind == "told" and change.number is not None:
                entry = self._run.study.asked(change.number)
                if entry.trial.counts:
                    self._spent += entry.trial.cost
                    self._paid.append(change.number)
                if entry.trial.is_part:
                    self._has_parts = True
                    self._losses += [step_loss(entry)] if entry.trial.gradient is not None else []
                elif entry.trial.split == "search":
                    points.append(self._point(entry, change.at, facts))
            elif change.kind == "grown":  # what was spent counts in evaluations of the larger split
                self._spent = sum(self._run.study.asked(number).trial.cost for number in self._paid)
        return points, facts

    def outcome(self, result: Mapping[str, Any]) -> dict[str, Value]:
        """Return the winner and the scores on the report split. result: from `selection_to_dict`."""
        objective = self._run.objective
        facts: dict[str, Value] = {"winner": result["winner"], "verdict": result["verdict"]}
        for standing in result["standings"]:
            row = {f"/task/{task}": value for task, value in standing["tasks"].items()}
            if objective.kind == "mean":
                row[""] = standing
            for name, value in row.items():
                facts[f"report/{standing['label']}{name}"] = value["mean"]
                if value["interval"] is not None:
                    low, high = value["interval"]
                    facts |= {
                        f"report/{standing['label']}{name}/low": low,
                        f"report/{standing['label']}{name}/high": high,
                    }
        return facts

    def _point(self, entry: Entry, at: datetime, facts: dict[str, Value]) -> Point:
        self._completed += entry.trial.counts
        values: dict[str, float] = {"trial": float(entry.trial.number)}
        if entry.losses is None or entry.outcome is None:
            self._failures += 1
        else:
            objective = self._run.objective
            scores = {f"task/{task}": mean for task, mean in objective.means(entry.outcome.scores).items()}
            if objective.kind == "mean":
                scores["score"] = objective.score_of(entry.losses)
            if entry.trial.merge is not None:
                facts |= {f"baseline/{entry.trial.label}/{name}": value for name, value in scores.items()}
            values |= scores
            if entry.trial.counts:
                values |= self._aimed_at(entry, objective)
        if self._best is not None:
            values["best"] = self._best
        values |= {"completed": float(self._completed), "failures": float(self._failures)}
        if self._has_parts:
            values["evaluations"] = self._spent
        losses, self._losses = [loss for loss in self._losses if isfinite(loss)], []
        if losses:
            values["gradient/loss"] = sum(losses) / len(losses)
        if entry.outcome is not None:
            values |= {f"seconds/{stage}": seconds for stage, seconds in entry.outcome.seconds.items()}
        return Point(entry.told_at or 0, at, values)

    def _aimed_at(self, entry: Entry, objective: Objective) -> dict[str, float]:
        """Return the metrics of the objective other than scores, and update the best so far."""
        relative = objective.needs_parents or objective.pareto
        if relative and (entry.trial.origin is not Origin.SEARCH or not self._parents_came_before(entry)):
            return {}
        if self._models is None:
            self._models = Ranking(self._run.study, objective, "search").models
        numbers = [model.trial.number for model in self._models]
        if entry.trial.number not in numbers:  # scored on other examples
            return {}
        so_far = self._models[: numbers.index(entry.trial.number) + 1]
        if objective.pareto:
            front = search_front(so_far) if objective.n_objectives <= FEW_OBJECTIVES else None
            return {} if front is None or front.hypervolume is None else {"hypervolume": front.hypervolume}
        leader = best(model for model in so_far if not model.is_parent)
        if leader is not None:
            self._best = leader.decisive.get(objective.kind, leader.score.mean)
        return dict(so_far[-1].decisive)

    def _parents_came_before(self, entry: Entry) -> bool:
        """Return whether all parents were completed before this entry, whatever the study holds by now."""
        entries = self._run.study.entries.values()
        parents = [e for e in entries if e.trial.origin.is_parent and e.trial.split == "search"]
        return all(e.told_at is not None and e.told_at < (entry.told_at or 0) for e in parents)
