"""What may be said of a winner, in sentences that do not promise more than was seen."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from evomerge.objective import Objective
from evomerge.records import is_parent
from evomerge.selection.ranking import SelectionError
from evomerge.statistics import Difference, Estimate, examples_needed, variance_of


@dataclass(frozen=True)
class Standing:
    """One model on the report split: its score, each task's, and how far the winner is ahead of it (paired)."""

    label: str
    score: Estimate
    tasks: dict[str, Estimate]
    behind: Difference | None


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
    objective: Objective,
    standings: Sequence[Standing],
    claims: Sequence[Claim],
    *,
    shares: Collection[str],
    scaled: bool = False,
    keeps: bool | None = None,
) -> str:
    """The sentences, from standings with the winner first.

    shares: the tasks whose differences are points. scaled: whether scores run from the worst model to the best.
    keeps: whether the winner kept what was asked for where it was chosen.
    """
    sentences = [
        _against_the_best(standings, shares=not scaled and set(shares) >= set(objective.weights), scaled=scaled)
    ]
    if objective.kind in ("chebyshev", "retention") and claims:
        sentences.append(_worst_task(objective, standings[0], claims, shares))
    if claims:
        sentences.append(_task_by_task(claims, shares))
    if keeps is False:
        asked = ", ".join(f"{task} {-fall:g}" for task, fall in objective.keep.items())
        sentences.append(f"No finalist kept what was asked for ({asked}) on the select split; this one came nearest.")
    for claim in claims:
        fall = objective.keep.get(claim.task)
        if fall is not None and claim.gain.mean < -fall:
            amount = _amount(claim.gain, shares=claim.task in shares)
            sentences.append(f"On held-out examples {claim.task} fell further than asked for ({-fall:g}): {amount}.")
    return " ".join(sentences)


def _against_the_best(standings: Sequence[Standing], *, shares: bool, scaled: bool) -> str:
    parents = [s for s in standings if is_parent(s.label)]
    if not parents:
        return "No parent was scored on the report split: nothing to compare the winner with."
    winner, best = standings[0], max(parents, key=lambda standing: standing.score.mean)
    gap = best.behind
    if gap is None:
        raise SelectionError("A parent cannot be the winner of a search for merges.")
    amount = _amount(gap, shares=shares) + (" between the worst model, 0, and the best, 1" if scaled else "")
    if gap.shown:
        p = f"p = {gap.p:.2g}" if gap.p >= 1e-4 else "p < 0.0001"
        return f"{winner.label} beats the best parent, {best.label}, on held-out examples ({amount}, {p})."
    return (
        f"No merge was shown to be better than {best.label} on held-out examples ({amount}). "
        f"Keep {best.label}{_more(gap, shares=shares)}."
    )


def _more(gap: Difference, *, shares: bool) -> str:
    """How many examples would show a gap, where that is known and more than there are."""
    delta = max(abs(gap.mean), 0.005) if shares else abs(gap.mean)
    if not math.isfinite(gap.half_width) or delta == 0:
        return ""
    needed = examples_needed(variance_of(gap), delta)
    return f", or evaluate on at least {needed:,} examples" if needed > gap.n_examples else ""


def _worst_task(objective: Objective, winner: Standing, claims: Sequence[Claim], shares: Collection[str]) -> str:
    def gain(claim: Claim) -> float:
        """In a search for retention, relative to what the parent scores."""
        theirs = winner.tasks[claim.task].mean - objective.sign(claim.task) * claim.gain.mean
        return claim.gain.mean / abs(theirs) if objective.kind == "retention" and theirs else claim.gain.mean

    worst = min(claims, key=gain)
    change = f", a change of {100 * gain(worst):+.1f} %" if objective.kind == "retention" else ""
    amount = _amount(worst.gain, shares=worst.task in shares)
    return f"Its worst task is {worst.task}: {amount} against {worst.parent}{change}."


def _task_by_task(claims: Sequence[Claim], shares: Collection[str]) -> str:
    """On which tasks the winner was shown to differ from the parent that is best on them."""

    def named(found: Sequence[Claim]) -> str:
        return ", ".join(f"{claim.task} ({_amount(claim.gain, shares=claim.task in shares)})" for claim in found)

    better = [claim for claim in claims if claim.shown and claim.gain.mean > 0]
    worse = [claim for claim in claims if claim.shown and claim.gain.mean < 0]
    rest = [claim.task for claim in claims if not claim.shown]
    parts = [f"better on {named(better)}"] if better else []
    parts += [f"worse on {named(worse)}"] if worse else []
    parts += [f"not shown to differ on {', '.join(rest)}"] if rest else []
    return f"Task by task, against the best parent on each: {'; '.join(parts)}."


def _amount(gap: Difference, *, shares: bool) -> str:
    """`+1.2 ± 0.4 points`, or in the unit of the values; without a margin where none is known."""
    if not math.isfinite(gap.half_width):
        return f"{100 * gap.mean:+.1f} points" if shares else f"{gap.mean:+.4g}"
    if shares:
        return f"{100 * gap.mean:+.1f} ± {100 * gap.half_width:.1f} points"
    digits = max(0, 1 - math.floor(math.log10(gap.half_width))) if gap.half_width > 0 else 3
    return f"{gap.mean:+.{digits}f} ± {gap.half_width:.{digits}f}"
