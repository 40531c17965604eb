"""Numbers in words: durations, scores, stages. Plain ASCII, so that every terminal can show them."""

import math
from collections.abc import Mapping, Sequence

from evomerge.report.snapshot import Standing


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def score(standing: Standing) -> str:
    """`0.731 [0.702, 0.760]`, without the interval where its standard error is unknown; else the tasks."""
    if standing.score is None:
        return tasks(standing.tasks)
    if standing.interval is None:
        return f"{standing.score:.4g}"
    low, high = standing.interval
    digits = decimals(standing.error)
    return f"{standing.score:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def tasks(values: Mapping[str, float]) -> str:
    """`math 0.31, chat 0.2`."""
    return ", ".join(f"{task} {value:.4g}" for task, value in values.items())


def gains(values: Mapping[str, float]) -> str:
    """`math +0.012, chat -0.003`, the worst first."""
    ranked = sorted(values.items(), key=lambda item: item[1])
    return ", ".join(f"{task} {value:+.3g}" for task, value in ranked)


def front(size: int, candidates: int, hypervolume: float | None) -> str:
    """`7 of 180 candidates, hypervolume 0.0123`."""
    volume = "" if hypervolume is None else f", hypervolume {hypervolume:.4g}"
    return f"{size} of {candidates} candidates{volume}"


def beside(baselines: Sequence[float | None], score: float | None) -> str:
    """`, 2 of 9 baselines are better`: where a score stands among the baselines; nothing without any."""
    known = [baseline for baseline in baselines if baseline is not None]
    if not known or score is None:
        return ""
    better = sum(baseline > score for baseline in known)
    return f", {better or 'none'} of {len(known)} baselines {'is' if better <= 1 else 'are'} better"


def decimals(error: float) -> int:
    """Digits behind the point worth printing: two of the standard error, from 3 to 6."""
    return 3 if error <= 0 or not math.isfinite(error) else max(3, min(6, 1 - math.floor(math.log10(error))))


def shares(seconds: dict[str, float]) -> str:
    """`evaluate:add 81 %, merge 12 %, waiting 7 %`, largest first."""
    total = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{stage} {100 * part / total:.0f} %" for stage, part in ranked) if total > 0 else "-"


def counts(failures: dict[str, int]) -> str:
    """`nonfinite 2, worker_died 1`."""
    return ", ".join(f"{kind} {count}" for kind, count in failures.items()) or "none"


def bar(done: int, total: int, width: int) -> str:
    """`[#####-----]`, `width` characters in all."""
    inner = max(1, width - 2)
    filled = min(inner, inner * done // max(1, total))
    return f"[{'#' * filled}{'-' * (inner - filled)}]"
