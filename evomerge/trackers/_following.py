"""The loop of a tracker's process: follow a ledger, send what is new, try again what did not arrive."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from evomerge.study.follow import Follower
from evomerge.text.masking import masked
from evomerge.trackers._story import Story
from evomerge.trackers.base import Ending, Point, Tracker, TrackerError, TrackerRefused, Value

#: Seconds between two looks at the ledger, and between two tries at a tracker that does not answer.
PAUSE, AGAIN = 1.0, 10.0
#: Seconds that are left to send the rest after the search has ended.
REST = 600.0


class TheEnd:
    """Hears from the search, through a pipe, that it ends, and what came out; a pipe that breaks says so too."""

    def __init__(self, pipe: IO[bytes], say: Callable[[str], None]) -> None:
        self._pipe = pipe
        self._say = say
        self._come = threading.Event()
        self.ending: Ending = "killed"
        self.result: dict[str, Any] | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def come(self) -> bool:
        """Whether the search has ended."""
        return self._come.is_set()

    def wait(self, seconds: float) -> None:
        """Wait for it, at most so long."""
        self._come.wait(seconds)

    def _listen(self) -> None:
        told = self._pipe.read()
        with suppress(ValueError):  # nothing, or not all of it, from a search that was killed
            said = json.loads(told)
            self.ending, self.result = said["ending"], said["result"]
        self._come.set()
        time.sleep(REST)
        self._say("gave up sending the rest; the ledger has it, and a resumed search sends it")
        os._exit(1)  # whatever hangs


def follow(tracker: Tracker, follower: Follower, end: TheEnd, say: Callable[[str], None]) -> bool:
    """Send a study to a tracker until the search has ended and everything has arrived; whether it has.

    say: told in one line when the tracker does not take it, and when it does again.
    """
    story = Story(follower)
    points: list[Point] = []
    facts: dict[str, Value] = {}
    first: int | None = None
    troubled = False
    while True:
        over = end.come  # asked before looking: what was told before the end is then seen
        new, known = story.tell(follower.poll())
        points += new
        facts |= known | (_ending(end, story) if over else {})
        try:
            if first is None:
                first = tracker.open()
            tracker.log([point for point in points if point.step >= first])
            points = []
            if facts:
                tracker.describe(facts)
                facts = {}
            if over:
                tracker.close(end.ending)
        except TrackerRefused as error:
            say(f"takes nothing: {_line(error)}")
            return False
        except TrackerError as error:
            if not troubled:
                say(f"does not answer, and is tried again and again: {_line(error)}")
            troubled = True
            time.sleep(AGAIN) if end.come else end.wait(AGAIN)
            continue
        if troubled:
            say("answers again")
            troubled = False
        if over:
            return True
        end.wait(PAUSE)


def _ending(end: TheEnd, story: Story) -> dict[str, Value]:
    facts: dict[str, Value] = {"state": end.ending}
    return facts | ({} if end.result is None else story.outcome(end.result))


def _line(error: Exception) -> str:
    return masked(" ".join(str(error).split()))[:300]
