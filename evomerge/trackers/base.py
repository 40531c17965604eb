"""Interface of an experiment tracker."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

Value = float | str
#: How a search ended; `killed`: without saying anything.
Ending = Literal["done", "stopped", "paused", "killed"]


class TrackerError(RuntimeError):
    """A tracker that cannot be reached now; it is tried again."""


class TrackerRefused(TrackerError):
    """A tracker that will not take anything however often it is tried."""


@dataclass(frozen=True)
class RunInfo:
    """identity: the same in every session of a study. name: for people. folder: for a tracker's own files."""

    identity: str
    name: str
    folder: Path
    configuration: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """Numbers after one told trial. step: its place among the told ones. at: time of day, UTC."""

    step: int
    at: datetime
    values: Mapping[str, float]


class Tracker(ABC):
    """One run in one tracker. Every method may raise SinkError, and then may be called again.

    A tracker is named like the library that it needs, and like the extra of ours that brings it.
    """

    def __init__(self, target: str, run: RunInfo) -> None:
        self.target = target
        self.run = run

    @abstractmethod
    def open(self) -> int:
        """Begin or resume the run; return the step after the last one that it has, 0 where that is not known."""

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Add points, in order of their steps. A point that it has already may come again and changes nothing."""

    @abstractmethod
    def describe(self, facts: Mapping[str, Value]) -> None:
        """Say what is true of the run as a whole; the last word counts."""

    @abstractmethod
    def close(self, ending: Ending) -> None:
        """End this session of the run."""
