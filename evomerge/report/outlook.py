"""What the next minutes of a search bring, from its recent pace."""

from evomerge.loop import Progress
from evomerge.report.words import count, duration
from evomerge.trial import CANARY

#: How far the outlook reaches, in seconds.
AHEAD = 600.0


def outlook(progress: Progress, pace: float | None, left: float | None) -> str:
    """Say what comes next; empty while that is unknown.

    pace: seconds per evaluation of the whole search split. left: seconds until the study is done.
    """
    planned = progress.planned + progress.busy
    if progress.phase == CANARY:
        return f"a check that coefficients change the outputs, then {count(progress.planned, 'baseline')}"
    if progress.phase == "baselines":
        each = "" if pace is None else f" (about {duration(planned * pace)})"
        return f"{count(planned, 'more baseline')}{each}, then the optimizer's candidates"
    if progress.phase == "select":
        return "the winner is chosen on the select split, then compared on the report split"
    if progress.phase == "report":
        return "the verdict, on the report split"
    if left is None or not pace:
        return ""
    selecting = progress.reserve()
    searching = left - selecting
    after = f"the selection on held-out examples (about {duration(selecting)})"
    unit = "evaluation" if progress.study.parts else "candidate"
    if searching < pace:
        return f"the last candidates, then {after}"
    if searching <= AHEAD:
        return f"about {count(round(searching / pace), unit)}, then {after}"
    return f"about {count(round(AHEAD / pace), unit)} in {duration(AHEAD)}; in {duration(searching)} {after}"
