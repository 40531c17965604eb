"""Failures: telling systematic faults from bad candidates, diagnosing them, and selecting trials to retry."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.study import Entry, Study
from evomerge.trial import OUT_OF_MEMORY, Failure, Outcome

#: Number of consecutive failures of any kind that pauses a study.
IN_A_ROW = 5
#: Window of recent trials; if more than half of them failed, the study pauses too.
WINDOW = 20
#: Lines of a traceback kept in a diagnosis, from its end.
TRACE_LINES = 30


@dataclass(frozen=True)
class Diagnosis:
    """Why a study pauses. reason: one line. trace: of the first failure. trials: the failed ones, see `forgiven`."""

    reason: str
    trace: str = ""
    trials: tuple[int, ...] = ()

    @property
    def message(self) -> str:
        """Return the reason, followed by the traceback if there is one."""
        return f"{self.reason}\n{self.trace}" if self.trace else self.reason


class Failures:
    """Monitors the outcomes of a session: a bad candidate fails alone, a broken system fails most of them."""

    def __init__(self) -> None:
        self._recent: deque[Entry] = deque(maxlen=WINDOW)

    def note(self, entry: Entry) -> Diagnosis | None:
        """Record a told trial; return the diagnosis if the study must pause."""
        self._recent.append(entry)
        failed = [each for each in self._recent if failure_of(each)]
        last = list(self._recent)[-IN_A_ROW:]
        if len(last) == IN_A_ROW and all(map(failure_of, last)):
            return diagnose(f"{IN_A_ROW} failures in a row", failed)
        if 2 * len(failed) > WINDOW:
            return diagnose(f"{len(failed)} of the last {len(self._recent)} trials failed", failed)
        return None


def diagnose(what: str, failed: Sequence[Entry]) -> Diagnosis:
    """Summarize failures: what happened, how many of each kind, and the first one with its traceback."""
    failures = [failure for failure in map(failure_of, failed) if failure is not None]
    if not failures:
        return Diagnosis(what)
    kinds = Counter(failure.kind for failure in failures)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    trace = "\n".join(failures[0].trace.strip().splitlines()[-TRACE_LINES:])
    reason = f"{what} ({counts}); the first: {failures[0].kind}: {failures[0].message}"
    return Diagnosis(reason, trace, tuple(entry.trial.number for entry in failed))


def short_of_memory(study: Study, outcome: Outcome) -> Diagnosis | None:
    """Return why a study pauses after a trial ran out of memory, which blames the machine, not the candidate.

    None for a trial that has paused the study before: it may be the candidate's fault after all, and fails.
    """
    failure = outcome.failure
    if failure is None or failure.kind != OUT_OF_MEMORY:
        return None
    if any(kind == OUT_OF_MEMORY and data.get("trial") == outcome.number for kind, data in study.events):
        return None
    first = failure.message.strip().partition("\n")[0]
    study.event(OUT_OF_MEMORY, trial=outcome.number, reason=first)
    return Diagnosis(
        f"memory ran out twice while trial {outcome.number} was scored: {first}\n"
        "It is scored again on resume, and fails only if memory runs out again. Before resuming, reduce "
        "`batch_tokens` (4096 on a CPU by default, measured on a GPU), use fewer `workers`, "
        "spread the model over several GPUs (`gpus_per_worker: 2`), or stop other programs that use the memory.",
        failure.trace,
    )


def forgiven(study: Study) -> frozenset[int]:
    """Return failed trials caused by a systematic fault; the baselines and finalists among them run again."""
    return frozenset(n for kind, data in study.events if kind == "paused" for n in data.get("trials", ()))


def failed_on(study: Study, split: str) -> list[Entry]:
    """Return the failed trials of one split, in the order they were told."""
    return [entry for entry in study.told if entry.trial.split == split and failure_of(entry)]


def failure_of(entry: Entry) -> Failure | None:
    """Return why a trial has no scores; None if it has some or is pending."""
    return None if entry.outcome is None else entry.outcome.failure
