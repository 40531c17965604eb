"""After the search: finalists and baselines meet on the select split, one winner on the report split.

A search that tries hundreds of candidates picks a lucky one; the split it was picked on cannot say by how much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluators.base import Scores
from evomerge.budget import RECOMMENDED, candidates
from evomerge.execution.base import Executor
from evomerge.objective import Objective
from evomerge.records import CANARY, FloatArray, Trial, is_parent
from evomerge.search import Ending, Progress, StopRequest, score_all
from evomerge.statistics import Difference, Estimate, difference, estimate, examples_needed
from evomerge.study import Entry, Study

#: How many of the search's best candidates meet on the select split.
FINALISTS = 8


class SelectionError(ValueError):
    """A study in which nothing can be selected yet."""


@dataclass(frozen=True)
class Standing:
    """One model on the report split: its score, each task's, and how far the winner is ahead of it (paired)."""

    label: str
    score: Estimate
    tasks: dict[str, Estimate]
    behind: Difference | None


@dataclass(frozen=True)
class Selection:
    """The result of a study: the winner's trial on the report split and everything it was compared with.

    standings: winner first, then parents and averages. verdict: the sentence to print and to believe.
    """

    winner: Trial
    standings: tuple[Standing, ...]
    verdict: str
    looks: int


def finalists(study: Study, objective: Objective, count: int = FINALISTS) -> list[Trial]:
    """The trials for the select split: the search's best, what the optimizer recommended, all baselines."""
    scored = [entry for entry in study.told if _comparable(entry)]
    if not scored:
        raise SelectionError("No candidate of this study has scores; see the failures in `evomerge status`.")
    # With several objectives a finalist is chosen by the weighted mean, as a person without preference would.
    best = sorted(scored, key=lambda entry: (-_search_score(objective, entry), entry.trial.number))
    searched = [entry.trial for entry in best if not is_baseline(entry.trial)]
    chosen = searched[:count] + [t for t in searched[count:] if t.label.startswith(RECOMMENDED)]
    baselines = [entry.trial for entry in scored if is_baseline(entry.trial)]
    named = [replace(trial, label=f"trial:{trial.number}") for trial in chosen] + baselines
    return [replace(trial, split="select") for trial in named]


def select(
    study: Study,
    executor: Executor,
    objective: Objective,
    recommended: FloatArray | None,
    *,
    seed: int = 0,
    stop: StopRequest | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Ending:
    """Score the finalists on select, then the winner and what it is compared with on report; record the choice.

    recommended: the optimizer's own idea, (dimension,); it is scored on the search split first, as a candidate
    beyond the budget. What the study has is not scored again; a study that was searched on selects anew.
    """

    def score(trials: Sequence[Trial], phase: str) -> Ending:
        return score_all(study, executor, objective, trials, phase=phase, stop=stop, progress=progress)

    n_candidates = candidates(study)
    if recommended is not None:
        ending = score([Trial(-1, recommended, label=f"{RECOMMENDED}:{n_candidates}", seed=seed)], "search")
        if ending.kind != "done":
            return ending
    ending = score(finalists(study, objective), "select")
    if ending.kind != "done":
        return ending
    if not any(kind == "selected" and data["candidates"] == n_candidates for kind, data in study.events):
        study.event("selected", label=_best_on_select(study, objective).trial.label, candidates=n_candidates)
    trials = _for_report(study)
    read = {e.trial.label for e in study.entries.values() if e.trial.split == "report"}
    if any(trial.label not in read for trial in trials):
        study.event("report_split_read", winner=_selected(study))
    return score(trials, "report")


def _for_report(study: Study) -> list[Trial]:
    """The winner, then the base, the parents and the uniform average, on the report split."""
    label = _selected(study)
    on_select = [entry.trial for entry in study.entries.values() if entry.trial.split == "select"]
    winner = [trial for trial in on_select if trial.label == label]
    others = [trial for trial in on_select if trial.label != label and _reported(trial.label)]
    return [replace(trial, split="report") for trial in winner + others]


def selection(study: Study, objective: Objective) -> Selection:
    """Read the result off the ledger. Raises SelectionError while there is none."""
    label = _selected(study)
    entries = [e for e in study.told if e.trial.split == "report" and e.outcome is not None and e.outcome.scores]
    by_label = {entry.trial.label: entry for entry in entries}
    if label not in by_label:
        raise SelectionError("The winner has no score on the report split yet: the search is not finished.")
    winner = by_label.pop(label)
    ranked = sorted(by_label.values(), key=lambda e: -_standing(objective, e, None).score.mean)
    standings = [_standing(objective, winner, None), *(_standing(objective, e, winner) for e in ranked)]
    looks = sum(kind == "report_split_read" for kind, _ in study.events)
    return Selection(winner.trial, tuple(standings), _verdict(winner, standings), looks)


def is_baseline(trial: Trial) -> bool:
    """Whether a trial is a fixed point of comparison and no proposal of the search."""
    return trial.merge is not None


def _comparable(entry: Entry) -> bool:
    usable = entry.outcome is not None and entry.outcome.failure is None
    return usable and entry.trial.split == "search" and entry.trial.label != CANARY


def _scores(entry: Entry) -> dict[str, Scores]:
    if entry.outcome is None:
        raise SelectionError(f"Trial {entry.trial.number} has no scores.")
    return dict(entry.outcome.scores)


def _search_score(objective: Objective, entry: Entry) -> float:
    return objective.score(objective.means(_scores(entry)))


def _best_on_select(study: Study, objective: Objective) -> Entry:
    """The best merge on the select split; a parent is no merge, but it stays in the comparison."""
    scored = [
        e for e in study.told if e.trial.split == "select" and e.losses is not None and not is_parent(e.trial.label)
    ]
    if not scored:
        raise SelectionError("Every finalist failed on the select split; see `evomerge status`.")
    return max(scored, key=lambda entry: (_search_score(objective, entry), -entry.trial.number))


def _selected(study: Study) -> str:
    labels = [str(data["label"]) for kind, data in study.events if kind == "selected"]
    if not labels:
        raise SelectionError("No winner has been selected yet: the search is not finished.")
    return labels[-1]


def _reported(label: str) -> bool:
    return is_parent(label) or label == "uniform"


def _standing(objective: Objective, entry: Entry, winner: Entry | None) -> Standing:
    scores = _scores(entry)
    parts = objective.contributions(scores)
    behind = None if winner is None else difference(objective.contributions(_scores(winner)), parts)
    tasks = {task: estimate({task: np.asarray(scores[task].values)}) for task in scores}
    return Standing(entry.trial.label, estimate(parts), tasks, behind)


def _verdict(winner: Entry, standings: Sequence[Standing]) -> str:
    parents = [s for s in standings if is_parent(s.label)]
    if not parents:
        return "No parent was scored on the report split: nothing to compare the winner with."
    best = max(parents, key=lambda standing: standing.score.mean)
    gap = best.behind
    if gap is None:
        raise SelectionError("A parent cannot be the winner of a search for merges.")
    points = f"{100 * gap.mean:+.1f} ± {100 * 1.96 * gap.standard_error:.1f} points"
    if gap.shown:
        p = f"p = {gap.p:.2g}" if gap.p >= 1e-4 else "p < 0.0001"
        return f"{winner.trial.label} beats the best parent, {best.label}, on held-out examples ({points}, {p})."
    delta = max(abs(gap.mean), 0.005)
    spread = gap.standard_error**2 * gap.n_examples
    needed = examples_needed(spread, delta)
    more = f", or evaluate on at least {needed:,} examples" if needed > gap.n_examples else ""
    return (
        f"No merge was shown to be better than {best.label} on held-out examples ({points}). Keep {best.label}{more}."
    )
