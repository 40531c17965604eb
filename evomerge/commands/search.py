"""`evomerge search`: preparation, run with live view, and result."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from evomerge.budget import pace, seconds_left
from evomerge.commands.finish import has_scores
from evomerge.commands.interruption import Question, asks_people
from evomerge.commands.start_trackers import Trackers
from evomerge.config import SearchConfig
from evomerge.errors import DONE, PAUSED, SIGNAL, STOPPED
from evomerge.launch import launch
from evomerge.launch.plan import prepare
from evomerge.loop import DECIDED, REUSED, SAME_MODEL, Ending, Progress, StopRequest, decisions
from evomerge.report import standings, status
from evomerge.report.live import Interruptible, View, choose
from evomerge.report.outlook import outlook
from evomerge.report.snapshot import take
from evomerge.results.as_json import selection_to_dict
from evomerge.results.result import Selection
from evomerge.run import Run
from evomerge.study import Study
from evomerge.study.lines import FILE
from evomerge.trial import BATCH_TOKENS

#: Phases that the budget limits.
SEARCHING = ("canary", "baselines", "search")
#: Seconds between two redraws while no trial ends.
PAUSE = 1.0


def run_search(
    config: SearchConfig,
    console: Console,
    *,
    resume: bool,
    as_json: bool,
    finish: bool = False,
    trackers: Mapping[str, str] | None = None,
    menu: Callable[[Path, Selection], None] | None = None,
) -> int:
    """Run or resume a search and show its progress; return the exit code.

    finish: as in `launch.run`. trackers: kind -> target to log to. menu: called after the result, unless it is JSON.
    """
    watched = Trackers(trackers or {})
    with (
        Interruptible(choose(console, as_json=as_json)) as view,
        _question(view, console, as_json=as_json) as question,
    ):

        def say(message: str) -> None:
            view.event("message", message)

        plan = prepare(config, say=say)
        for note in plan.notes:
            view.event("note", note)
        view.event("planned", f"{plan.space.dimension} coefficients to search", dimension=plan.space.dimension)
        for message in watched.missing():
            view.event("sink", message)
        watcher = _Watcher(view, watched, question)
        ending, selection = launch.run(
            config, plan, resume=resume, finish=finish, progress=watcher, say=say, heard=watcher.heard
        )
        watcher.tell_reused()
        result = None if selection is None else selection_to_dict(selection)
        if result is not None:
            view.event("selected", **result)
        # Nothing is scored on a finished study, so its trackers are only started here.
        for message in [*watched.news(Path(config.study)), *watched.end(ending.kind, result)]:
            view.event("sink", message)
        code = _exit_code(ending)
        view.event("ended", _last_words(ending, Path(config.study)), ending=ending.kind, exit_code=code)
    if selection is not None and console.is_terminal and not as_json:
        console.print(standings.render(selection))
        origin = status.origin(Run(config.study).study, selection.winner.label)
        if origin:
            console.print(f"{selection.winner.label} is {origin}.", soft_wrap=True)
        export = f"{status.export_command(Path(config.study))} -o DIR"
        console.print(f"\nTo export {selection.winner.label}: {export}", soft_wrap=True)
        if menu is not None and code == DONE:
            menu(Path(config.study), selection)
    return code


def _question(view: View, console: Console, *, as_json: bool) -> Question | nullcontext[None]:
    """Return what asks at Ctrl-C; None without a terminal to answer in."""
    if as_json or not console.is_terminal or not asks_people():
        return nullcontext()
    return Question(lambda message: view.event("message", message), sys.stdin.fileno())


class _Watcher:
    """Turns the driver's progress into snapshots and events.

    Draws whenever a whole trial has ended, and else at most once per PAUSE.
    """

    def __init__(self, view: View, trackers: Trackers, question: Question | None) -> None:
        self._view = view
        self._question = question
        self._can_finish = False
        self._sinks = trackers
        self._drawn: tuple[str, float] = ("", 0.0)
        self._busy = 0
        self._decisions: int | None = None
        self._reused: list[int] = []

    def heard(self, stop: StopRequest) -> None:
        """Acknowledge a signal at once; called from its handler."""
        if stop.level > 1:
            self._view.event("stopping", "stopping at once")
            return
        if self._question is not None and self._drawn[0] in SEARCHING and not stop.finish:
            self._view.event("stopping", self._question.ask(stop, can_finish=self._can_finish))
            return
        running = "1 running candidate finishes" if self._busy == 1 else f"{self._busy} running candidates finish"
        self._view.event("stopping", f"stopping: {running}; Ctrl-C again stops at once")

    def __call__(self, progress: Progress) -> None:
        self._busy = progress.busy
        self._can_finish = self._can_finish or has_scores(progress.study)
        if progress.outcome is not None:
            self._tell(progress.outcome)
            if progress.outcome.number not in self._reused:
                self.tell_reused()
        self._decided(progress.study)
        for message in self._sinks.news(progress.study.folder):
            self._view.event("sink", message)
        phase, drawn = self._drawn
        now = time.monotonic()
        whole = progress.outcome is not None and progress.outcome.number in progress.study.entries
        if not whole and phase == progress.phase and now - drawn < PAUSE:
            return
        self._drawn = progress.phase, now
        searching = progress.phase in SEARCHING
        study, budget, reserve, needed = progress.study, progress.budget, progress.reserve, progress.needed
        left = seconds_left(study, budget, reserve, needed) if searching else None
        self._view.update(
            take(
                Run.of(progress.study),
                trials=progress.budget.trials,
                phase=progress.phase,
                busy=progress.busy,
                slots=progress.slots,
                left=left,
                outlook=outlook(progress, pace(study), left),
            )
        )

    def tell_reused(self) -> None:
        """Tell which trials in a row had the scores of an earlier study."""
        if self._reused:
            one, listed = len(self._reused) == 1, ", ".join(map(str, self._reused))
            same = f"trial {listed} is the same model as one" if one else f"trials {listed} are the same models as ones"
            self._view.event("message", f"{same} of an earlier study and {'is' if one else 'are'} not scored again")
            self._reused.clear()

    def _decided(self, study: Study) -> None:
        """Tell the optimizer's decisions of this session."""
        if self._decisions is None:
            self._decisions = _decided_before(study)
        for text in decisions(study)[self._decisions :]:
            self._decisions += 1
            self._view.event("decided", text)

    def _tell(self, outcome: Any) -> None:
        for event in outcome.events:
            kind = event.get("event")
            if kind in (SAME_MODEL, REUSED):
                same = f"trial {outcome.number} is the same model as trial {event['as']} and is not scored again"
                said = same if kind == SAME_MODEL else ""  # told with those that follow
                self._view.event(kind, said, number=outcome.number, **{"as": event["as"]})
                self._reused += [outcome.number] if kind == REUSED else []
                continue
            self._view.event("worker", worker_text(outcome.number, event), **_rest(event))
        if outcome.failure is not None:
            message = f"trial {outcome.number} failed: {outcome.failure.kind}: {outcome.failure.message}"
            self._view.event("failed", message, number=outcome.number, failure=outcome.failure.kind)


def _decided_before(study: Study) -> int:
    """Return the number of decisions of the sessions before this one."""
    kinds = [kind for kind, _ in study.events]
    sessions = [place for place, kind in enumerate(kinds) if kind == "opened"]
    return kinds[: sessions[-1]].count(DECIDED) if sessions else 0


def worker_text(number: int, event: Mapping[str, Any]) -> str:
    """Return the text of an event in a worker."""
    if event["event"] == BATCH_TOKENS:
        return f"batches have {event['tokens']:,} tokens from now on, as measured on {event['device']}"
    reason = f": {event['reason']}" if event.get("reason") else ""
    return f"trial {number}: {event['event'].replace('_', ' ')}{reason}"


def _rest(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("event", "kind", "message")}


def _exit_code(ending: Ending) -> int:
    if ending.kind == "done":
        return DONE
    if ending.kind == "paused":
        return PAUSED
    return SIGNAL + ending.signal if ending.signal else STOPPED


def _last_words(ending: Ending, folder: Path) -> str:
    if ending.kind == "done":
        return f"done; all results are in {folder}"
    why = f": {ending.message}" if ending.message else ""
    if not (folder / FILE).exists():
        return f"{ending.kind}{why} before the study began"
    last = f"{ending.kind}{why}\nNothing is lost. To resume: {status.resume_command(folder)}"
    if ending.kind == "stopped" and Run(folder).study.completed:
        last += f"\nTo select among the candidates so far: {status.finish_command(folder)}"
    return last
