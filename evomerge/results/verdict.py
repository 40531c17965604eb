"""Verdict on a winner: sentences that claim no more than the evidence shows."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.objective import Objective
from evomerge.objective.score import task_difference
from evomerge.results.ranking import SelectionError, best_on
from evomerge.results.scored import ScoredModel
from evomerge.statistics import Difference, examples_needed, p_text, variance_of

#: Tolerated share of a task's examples whose value changes when a model is scored twice.
UNSTEADY = 0.05
#: Smallest gap of scores that are shares for which a number of examples is asked: smaller ones do not matter.
_LEAST_GAP = 0.005


@dataclass(frozen=True)
class Repeat:
    """One model scored twice on the same examples.

    changed: how many of the examples got another value, by task. shifts: by how much the mean of a task moved, in its
    unit; moved: by how much the score did.
    """

    label: str
    changed: Mapping[str, int]
    examples: Mapping[str, int]
    shifts: Mapping[str, float]
    moved: float

    @property
    def unsteady(self) -> tuple[str, ...]:
        """The tasks of which too many examples got another value to judge differences."""
        return tuple(task for task, count in self.changed.items() if count > UNSTEADY * self.examples[task])


@dataclass(frozen=True)
class Claim:
    """The winner against the parent that is best on one task. gain: larger is better. p: for all tasks together."""

    task: str
    parent: str
    gain: Difference
    p: float

    @property
    def shown(self) -> bool:
        """Whether they were shown to differ, at 5 % over all tasks."""
        return self.p < 0.05


def verdict(
    models: Sequence[ScoredModel],
    leads: Mapping[str, Difference],
    claims: Sequence[Claim],
    *,
    shares: Collection[str],
    keeps: bool | None = None,
    repeat: Repeat | None = None,
    baseline: ScoredModel | None = None,
) -> str:
    """The sentences, from the models on the report split with the winner first.

    leads: label -> how far the winner is ahead of another model, paired. shares: the tasks whose differences are
    points. keeps: whether the winner kept what was asked for where it was chosen. repeat: what was scored twice; a task
    that changed by itself is called neither better nor worse. baseline: the best one of the select split, as it was
    scored on the report split; it may be the winner itself.
    """
    winner = models[0]
    objective, scale = winner.objective, winner.reference.display.text
    points = not scale and set(shares) >= set(objective.weights)
    sentences = [_violations(models, shares)] if not winner.keeps else []
    sentences.append(_headline(models, leads, baseline, shares=points))
    if scale:
        sentences.append(f"The score is a mean, with {scale}.")
    unsteady = repeat.unsteady if repeat is not None else ()
    judged = [claim for claim in claims if claim.task not in unsteady]
    worst = winner.reference.worst(winner.losses)
    if worst is not None and worst not in unsteady and len(objective.weights) > 1:
        sentences += _worst_task(models, worst, shares)
    if judged:
        sentences.append(_task_by_task(objective, judged, shares))
    if repeat is not None:
        sentences += [
            f"Scoring {task} twice gave different values "
            f"({repeat.changed[task]} of {repeat.examples[task]} examples, mean shift {repeat.shifts[task]:+.2g}), so "
            "its differences are not judged."
            for task in unsteady
        ]
    if keeps is False:
        asked = ", ".join(f"{task} {objective.asked(task)}" for task in objective.keep)
        sentences.append(f"No finalist met all constraints ({asked}) on the select split; {winner.label} came closest.")
    return " ".join(sentences)


def _headline(
    models: Sequence[ScoredModel], leads: Mapping[str, Difference], baseline: ScoredModel | None, *, shares: bool
) -> str:
    """The winner against the best parent, then against the best baseline.

    That it beats the baseline is claimed only where it beats the parent: tested in this order, either claim is wrong in
    at most 5 % of studies without a correction.
    """
    winner, parents = models[0], [model for model in models if model.is_parent]
    if not parents:
        beside = _beside(winner, leads, baseline, shown=True, shares=shares)
        return f"No parent was scored on the report split, so the winner cannot be compared with any{beside}."
    if winner in parents:
        raise SelectionError("A parent cannot be the winner of a search for merges.")
    kept = [parent for parent in parents if parent.keeps]
    best = max(kept or parents, key=lambda parent: parent.score.mean)
    gap = leads[best.label]
    amount = amount_text(gap, shares=shares) + _of(winner, shares=shares) + _by_constants(winner, best, gap)
    beside = _beside(winner, leads, baseline, shown=gap.shown, shares=shares)
    which = "the best-scoring parent" + (" that meets the constraints" if 0 < len(kept) < len(parents) else "")
    if gap.shown:
        p = p_text(gap.p, "p")
        said = f"{winner.label} beats {which}, {best.label}, on held-out examples ({amount}, {p}){beside}."
    else:
        said = f"No merge was shown to be better than {which}, {best.label}, on held-out examples ({amount}){beside}."
    if not kept:
        return f"{said} No parent meets the constraints on held-out examples."
    needed = _needed(gap, shares=shares)
    tiny = shares and abs(gap.mean) < _LEAST_GAP
    what = f", which would show a gap of {100 * _LEAST_GAP:g} points" if tiny else ""
    more = f", or evaluate on at least {needed:,} examples{what}" if needed is not None else ""
    return said if gap.shown else f"{said} Keep {best.label}{more}."


def _beside(
    winner: ScoredModel,
    leads: Mapping[str, Difference],
    baseline: ScoredModel | None,
    *,
    shown: bool,
    shares: bool,
) -> str:
    """How the winner stands to the best baseline, as the end of a sentence. shown: whether it beats the best parent."""
    if baseline is None:
        return ""
    label, kind = baseline.label, winner.objective.kind
    if label == winner.label:
        return f"; {winner.label} is itself a baseline, and no candidate of the search was better on the select split"
    gap = leads[label]
    amount = amount_text(gap, shares=shares) + _by_constants(winner, baseline, gap)
    p = f", {p_text(gap.p, 'p')}"
    mine, theirs = winner.decisive, baseline.decisive
    decisive = _decisive(kind, mine[kind], theirs[kind], shares=shares) if mine else ""
    falls = "" if baseline.keeps else f", which {'' if winner.keeps else 'also '}violates a constraint"
    if gap.p < 0.05 and gap.mean < 0:
        return f"; worse than {label}{falls} ({amount}{p}{decisive})"
    if not shown:
        return f"; against the best baseline, {label}{falls}: {amount}{decisive}"
    if gap.shown:
        return f", and the best baseline, {label}{falls} ({amount}{p}{decisive})"
    needed = _needed(gap, shares=shares)
    more = f"; showing it would take at least {needed:,} examples" if needed is not None else ""
    return f"; not shown to be better than {label}{falls} ({amount}{decisive}{more})"


def _decisive(kind: str, mine: float, theirs: float, *, shares: bool) -> str:
    """Format what decides beside the mean; on the worst task, in the unit of the differences beside it."""
    if kind == "retention":
        return f"; retention {100 * mine:.1f} % against {100 * theirs:.1f} %"
    if shares and kind != "borda":
        return f"; {kind} {100 * mine:+.1f} against {100 * theirs:+.1f} points"
    return f"; {kind} {mine:.3f} against {theirs:.3f}"


def _by_constants(winner: ScoredModel, other: ScoredModel, gap: Difference) -> str:
    """Where the examples of two models do not differ, what their difference comes from."""
    if not gap.by_constants:
        return ""
    names = [task for task in winner.tasks if winner.tasks[task].mean != other.tasks[task].mean]
    return f"; all of it comes from {', '.join(names)}, one value per model without sampling error"


def _of(winner: ScoredModel, *, shares: bool) -> str:
    """What a gap of scores is measured in, where that is neither points nor the unit of one task."""
    if winner.reference.display.scale:
        return " on a scale from 0, the worst model, to 1, the best"
    if shares or len(winner.tasks) == 1:
        return ""
    return " in the weighted mean of all tasks, each in its own unit"


def _needed(gap: Difference, *, shares: bool) -> int | None:
    """How many examples would show a gap; None where that is not known, or no number would, or there are as many."""
    delta = max(abs(gap.mean), _LEAST_GAP) if shares else abs(gap.mean)
    if not math.isfinite(gap.half_width) or delta == 0 or gap.by_constants:
        return None
    needed = examples_needed(variance_of(gap), delta)
    return needed if needed > gap.n_examples else None


def _on_report(models: Sequence[ScoredModel], task: str) -> Claim | None:
    """The winner against the best parent on a task, both on the report split; None where another split measures it."""
    winner, best = models[0], models[0].reference.losses
    column = list(winner.objective.weights).index(task)
    rival = best_on(column, [model for model in models if model.is_parent])
    if rival is None or best is None or rival.losses[column] != best[column]:
        return None
    gap = task_difference(winner.objective, task, winner.scores, rival.scores)
    return Claim(task, rival.label, gap, gap.p)


def _violations(models: Sequence[ScoredModel], shares: Collection[str]) -> str:
    """Which constraints the winner violates on the report split."""
    winner, named = models[0], []
    for task in winner.reference.violated(winner.constrained):
        claim, asked = _on_report(models, task), winner.objective.asked(task)
        missed = "" if claim is None else change(winner.objective, claim, shares)
        if winner.objective.limits_flips(task):
            lost = winner.constrained[list(winner.objective.weights).index(task)]
            missed = f"{100 * lost:.1f} % of the examples are lost"
        against = "" if claim is None else f" ({missed}, against {claim.parent})"
        named.append(f"{task} {asked}{against}")
    count = "a constraint" if len(named) == 1 else f"{len(named)} constraints"
    return f"{winner.label} violates {count} on held-out examples: {'; '.join(named)}."


def _worst_task(models: Sequence[ScoredModel], task: str, shares: Collection[str]) -> list[str]:
    """How the task that decides stands to the best parent on it, on the report split."""
    winner, claim = models[0], _on_report(models, task)
    if claim is None:
        return []
    kept = winner.decisive.get("retention")
    relative = "" if kept is None else f", a change of {100 * (kept - 1):+.1f} %"
    amount = change(winner.objective, claim, shares)
    return [
        f"The worst task of {winner.label} on held-out examples is {task}, against {claim.parent}: {amount}{relative}."
    ]


def _task_by_task(objective: Objective, claims: Sequence[Claim], shares: Collection[str]) -> str:
    """On which tasks the winner was shown to differ from the parent that is best on them."""

    def named(found: Sequence[Claim]) -> str:
        return ", ".join(f"{claim.task} ({change(objective, claim, shares)})" for claim in found)

    better = [claim for claim in claims if claim.shown and claim.gain.mean > 0]
    worse = [claim for claim in claims if claim.shown and claim.gain.mean < 0]
    rest = [claim.task for claim in claims if not claim.shown]
    parts = [f"better on {named(better)}"] if better else []
    parts += [f"worse on {named(worse)}"] if worse else []
    parts += [f"not shown to differ on {', '.join(rest)}"] if rest else []
    return (
        "Task by task, against the best parent on each, chosen on the select split "
        "(paired tests, Holm-corrected 5 % level): "
        f"{'; '.join(parts)}."
    )


def change(objective: Objective, claim: Claim, shares: Collection[str]) -> str:
    """A gain in the task's unit: `+1.2 ± 0.4 points`, or where less is better `1.2 ± 0.4 less`."""
    if objective.sign(claim.task) > 0:
        return amount_text(claim.gain, shares=claim.task in shares)
    size = amount_text(replace(claim.gain, mean=abs(claim.gain.mean)), shares=False).removeprefix("+")
    return f"{size} {'higher' if claim.gain.mean < 0 else 'lower'}"


def amount_text(gap: Difference, *, shares: bool) -> str:
    """`+1.2 ± 0.4 points`, or in the unit of the values; without a margin where none is known."""
    if not math.isfinite(gap.half_width):
        return f"{100 * gap.mean:+.1f} points" if shares else f"{gap.mean:+.4g}"
    if shares:
        return f"{100 * gap.mean:+.1f} ± {100 * gap.half_width:.1f} points"
    digits = max(0, 1 - math.floor(math.log10(gap.half_width))) if gap.half_width > 0 else 3
    return f"{gap.mean:+.{digits}f} ± {gap.half_width:.{digits}f}"
