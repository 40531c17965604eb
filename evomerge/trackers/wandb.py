"""Weights & Biases (https://docs.wandb.ai/ref/python): --wandb PROJECT or ENTITY/PROJECT."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import wandb

from evomerge.trackers.base import Ending, Point, RunInfo, Tracker, TrackerError, TrackerRefused, Value

#: Seconds to wait for the server before saying that it does not answer.
PATIENCE = 30.0


class Wandb(Tracker):
    """A run whose id is the study's, so that a resumed search continues it. WANDB_MODE=offline is respected."""

    def __init__(self, target: str, run: RunInfo) -> None:
        super().__init__(target, run)
        self._run: Any = None
        self._tried = False

    def open(self) -> int:
        """Begin or resume the run."""
        entity, _, project = self.target.rpartition("/")
        # Send nothing about the machine, its user and its source code beyond the content of the search file.
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            init_timeout=PATIENCE,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        if self._tried:
            wandb.teardown()  # its process remembers an id that it could not begin a run with
        self._tried = True
        with _explained():
            self._run = wandb.init(
                project=project,
                entity=entity or None,
                id=self.run.identity,
                name=self.run.name,
                dir=str(self.run.folder),
                config=dict(self.run.configuration),
                resume="allow",
                settings=settings,
            )
            return int(self._run.starting_step)

    def log(self, points: Sequence[Point]) -> None:
        """Add points."""
        with _explained():
            for point in points:
                self._opened.log(dict(point.values), step=point.step)

    def describe(self, facts: Mapping[str, Value]) -> None:
        """Put facts into the summary."""
        with _explained():
            self._opened.summary.update(dict(facts))

    def close(self, ending: Ending) -> None:
        """Send what is left."""
        with _explained():
            self._opened.finish(exit_code=1 if ending in ("paused", "killed") else 0)

    @property
    def _opened(self) -> Any:
        if self._run is None:
            raise TrackerError("the run was not opened")
        return self._run


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        raise TrackerRefused(str(error)) from error
    except (wandb.errors.Error, OSError) as error:
        raise TrackerError(str(error)) from error
