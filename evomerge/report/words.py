"""Formatting of durations, scores, stages and counts for text output."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.objective import Objective
from evomerge.results.as_json import estimate_of
from evomerge.results.front import Front
from evomerge.statistics import Z95, Estimate


def duration(seconds: float) -> str:
    """Format a duration: `45 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def score(model: Mapping[str, Any], digits: int | None = None) -> str:
    """Format a score with its interval; in a Pareto search, the tasks. model: from `so_far_to_dict`."""
    if model["score"] is None:
        return tasks(model["tasks"])
    return decisive(model.get("decisive", {}), estimate(estimate_of(model, "score"), digits))


def decisive(values: Mapping[str, float], score: str) -> str:
    """Format what models are ranked by, before the score: `retention 0.931, score 0.731`."""
    return (
        ", ".join([*(f"{name} {deciding(value)}" for name, value in values.items()), f"score {score}"])
        if values
        else score
    )


def deciding(value: float) -> str:
    """Format a value that models are ranked by, with fixed decimals: `0.9310`."""
    return f"{value:z.4f}"


def meaning(decides: Iterable[str]) -> list[str]:
    """Explain the objectives that rank models instead of the score."""
    said = {
        "chebyshev": "chebyshev: how far the worst task is ahead of the best parent on it, in weighted scores",
        "retention": "retention: the smallest ratio of a task's score to the best parent's score on it",
    }
    ranks = (
        "borda: the share of parents and baselines on the split that a merge beats, averaged over the tasks; it is "
        "what the search maximizes."
    )
    return [
        ranks
        if name == "borda"
        else f"{said[name]}; it is what the search maximizes, plus a twentieth of the mean over all tasks."
        for name in decides
    ]


def estimate(value: Estimate, digits: int | None = None) -> str:
    """Format a mean with its 95 % interval, `0.731 [0.702, 0.760]`, or alone if there is none.

    digits: decimals, such as those of a column; by default those that the value is worth.
    """
    if not value.has_interval:
        return f"{value.mean:.4g}"
    (low, high), digits = value.interval, digits_of(value) if digits is None else digits
    return f"{value.mean:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def plus_minus(value: Estimate, digits: int | None = None) -> str:
    """Format a mean with half its 95 % interval, `0.731 ± 0.029`, or alone if there is none.

    digits: decimals, such as those of a column; by default those that the value is worth.
    """
    if not value.has_interval:
        return f"{value.mean:.4g}"
    digits = digits_of(value) if digits is None else digits
    return f"{value.mean:z.{digits}f} ± {value.half_width:.{digits}f}"


def signed(gap: Estimate, digits: int) -> str:
    """Format a difference with its sign: `+0.031 ± 0.029`."""
    text = plus_minus(gap, digits)
    return text if text.startswith("-") else f"+{text}"


def same_decimals(*values: float) -> list[str]:
    """Format numbers to compare with the same decimals, at four significant digits: `0.99`, `1.00`."""
    shown = [f"{value:.4g}" for value in values]
    if not all(text.lstrip("-").replace(".", "").isdigit() for text in shown):  # an exponent
        return shown
    digits = max(len(text.partition(".")[2]) for text in shown)
    return [f"{value:z.{digits}f}" for value in values]


def smooth_notes(objective: Objective) -> list[str]:
    """Say which tasks the search follows by a smooth score, and that the verdict does not; none on other splits."""
    notes = []
    for task in objective.smooth:
        less = ", lower is better" if objective.sign(task) < 0 else ""
        notes.append(
            f"{task} is scored by {objective.unit(task)} on the search split{less}; constraints, selection and report "
            "use its metric."
        )
    return notes


def heading(objective: Objective, task: str) -> str:
    """The name of a task, with its smooth score where that is shown: `mine (bits per byte)`."""
    return f"{task} ({objective.unit(task)})" if task in objective.smooth else task


def column_digits(values: Iterable[Estimate]) -> int:
    """Return the decimals for a column: the most that any of its values is worth."""
    return max((digits_of(value) for value in values), default=3)


def column(values: Iterable[Estimate]) -> list[str]:
    """Format the values of a column like `plus_minus`, with the same decimals."""
    shown = list(values)
    digits = column_digits(shown)
    return [plus_minus(value, digits) for value in shown]


def count(number: int, noun: str) -> str:
    """Format a count: `1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def absent(front: Front) -> list[str]:
    """Say which models of a split are not compared: they are being scored, or were scored on other examples."""
    said = []
    if front.pending:
        said.append(
            f"{front.pending} more {'is' if front.pending == 1 else 'are'} being scored on the {front.split} split."
        )
    if front.left_out:
        said.append(f"Left out, since scored on other examples: {count(front.left_out, 'model')}.")
    return said


def tasks(values: Mapping[str, float]) -> str:
    """Format task means: `math 0.31, chat 0.2`."""
    return ", ".join(f"{task} {value:.4g}" for task, value in values.items())


def task_mean(value: float) -> str:
    """Format the mean of a task without an interval: `0.731`, `12.35`, `1,234`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def evaluations(spent: float, of: int | None = None) -> str:
    """`12.4 of 250 evaluations`. of: the budget, None without one."""
    return f"{spent:.1f} evaluations" if of is None else f"{spent:.1f} of {of} evaluations"


def partial(data: Mapping[str, Any]) -> list[str]:
    """`60 gradient steps`, `75 candidates on part of the examples`: what trials there are besides whole ones.

    data: from `Snapshot.as_dict`.
    """
    on_part = f"{count(data['on_part'], 'candidate')} on part of the examples"
    return [
        *([count(data["gradient_steps"], "gradient step")] if data["gradient_steps"] else []),
        *([on_part] if data["on_part"] else []),
    ]


def numbers(numbered: int, counted: int) -> list[str]:
    """Explain why trials have higher numbers than their count; nothing where they do not."""
    if numbered <= counted:
        return []
    return [f"trials are numbered 0 to {numbered - 1}: checks, gradients, parts and held-out scores have a number, too"]


def gains(values: Mapping[str, float]) -> str:
    """Format gains by task, the smallest first: `chat -0.003, math +0.012`."""
    ranked = sorted(values.items(), key=lambda item: item[1])
    return ", ".join(f"{task} {value:+.3g}" for task, value in ranked)


def front(size: int, candidates: int, hypervolume: float | None) -> str:
    """Format a front: `7 of 180 candidates not dominated by another merge, hypervolume of the candidates 0.01`.

    Candidates leave base, parents and baselines out; merges are candidates and baselines.
    """
    volume = "" if hypervolume is None else f", hypervolume of the candidates {hypervolume:.4g}"
    return f"{size} of {count(candidates, 'candidate')} not dominated by another merge{volume}"


def beside(model: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]], better: int | None) -> str:
    """Say which baselines are better than a model: `; parent:a is better by 0.021, as are 2 more of 9 baselines`.

    model, baselines: from `so_far_to_dict`, the best baseline first. better: how many are; None for unknown.
    """
    if not baselines or better is None:
        return ""
    if not better:
        return f"; none of {count(len(baselines), 'baseline')} is better"
    first, more = baselines[0], better - 1
    lead = first["score"] - model["score"]  # constraints and objectives other than the score may say the opposite
    amount = f" by {lead:.3g}" if lead > 0 and "decisive" not in model else ""
    said = f"; {first['label']} is better{amount}"
    return f"{said}, as {'is' if more == 1 else 'are'} {more} more of {len(baselines)} baselines" if more else said


def digits_of(value: Estimate) -> int:
    """Return the decimals that a mean is worth, by the width of its interval."""
    return decimals(value.half_width / Z95)


def decimals(error: float) -> int:
    """Return the decimals worth printing: two digits of the standard error, from 3 to 6."""
    return 3 if error <= 0 or not math.isfinite(error) else max(3, min(6, 1 - math.floor(math.log10(error))))


def shares(seconds: dict[str, float]) -> str:
    """Format shares of time, largest first: `evaluate:add 81 %, merge 12 %, waiting 7 %`."""
    total = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{stage} {100 * part / total:.0f} %" for stage, part in ranked) if total > 0 else "-"


def counts(failures: dict[str, int]) -> str:
    """Format counts of failures: `nonfinite 2, worker_died 1`."""
    return ", ".join(f"{kind} {count}" for kind, count in failures.items()) or "none"


def bar(done: int, total: int, width: int) -> str:
    """Draw a progress bar of `width` characters: `[#####-----]`."""
    inner = max(1, width - 2)
    filled = min(inner, inner * done // max(1, total))
    return f"[{'#' * filled}{'-' * (inner - filled)}]"
