"""The contract of every tracker: what is logged is there, a second session goes on with the same run."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evomerge.trackers.base import Point, RunInfo, Tracker

CONFIGURATION = {"seed": 3, "space": {"kind": "smooth", "points": 4}, "tasks": {"a task, with a name": "synthetic"}}


def points(first: int, count: int) -> list[Point]:
    return [
        Point(step, datetime.fromtimestamp(1_700_000_000 + step, UTC), {"score": step / 8, "task/one": -float(step)})
        for step in range(first, first + count)
    ]


class TrackerContract(ABC):
    """Subclass with the tracker, a target to log to under tmp_path, and a way to read it back."""

    tracker: type[Tracker]

    @abstractmethod
    def target(self, tmp_path: Path) -> str:
        """Where to log to."""

    @abstractmethod
    def read(self, tmp_path: Path) -> tuple[dict[int, dict[str, float]], dict[str, Any], dict[str, Any]]:
        """Of the one run that there is: values by step, facts, configuration."""

    def make(self, tmp_path: Path, identity: str = "abc123") -> Tracker:
        (tmp_path / "sinks").mkdir(exist_ok=True)
        return self.tracker(self.target(tmp_path), RunInfo(identity, "night", tmp_path / "sinks", CONFIGURATION))

    def test_what_is_logged_is_there(self, tmp_path: Path) -> None:
        tracker = self.make(tmp_path)
        assert tracker.open() == 0
        tracker.log(points(0, 2))
        tracker.log([])
        tracker.log(points(2, 1))
        tracker.describe({"baseline/base/score": 0.5, "winner": "trial:1"})
        tracker.describe({"winner": "trial:2"})
        tracker.close("done")
        values, facts, configuration = self.read(tmp_path)
        assert {step: found["score"] for step, found in values.items()} == {0: 0.0, 1: 0.125, 2: 0.25}
        assert values[2]["task/one"] == -2.0
        assert float(facts["baseline/base/score"]) == 0.5
        assert facts["winner"] == "trial:2"
        assert str(configuration["seed"]) == "3"

    def test_a_resumed_search_goes_on_with_the_same_run(self, tmp_path: Path) -> None:
        first = self.make(tmp_path)
        first.open()
        first.log(points(0, 3))
        first.close("stopped")
        again = self.make(tmp_path)
        assert again.open() in (0, 3)
        again.log(points(0, 5))  # what is there already changes nothing
        again.close("done")
        values, _, _ = self.read(tmp_path)
        assert {step: found["score"] for step, found in values.items()} == {n: n / 8 for n in range(5)}
