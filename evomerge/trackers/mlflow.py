"""MLflow (https://mlflow.org/docs/latest/ml/tracking): --mlflow URI, or the name of an experiment.

A URI (sqlite:///FILE, http://HOST:PORT) says where; the experiment is then $MLFLOW_EXPERIMENT_NAME or `evomerge`.
A name says which experiment of $MLFLOW_TRACKING_URI.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlflow import environment_variables as settings
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from evomerge.trackers.base import Ending, Point, RunInfo, Tracker, TrackerError, Value

EXPERIMENT = "evomerge"
#: The tag by which a resumed search finds its run.
TAG = "evomerge.study"
#: Seconds to wait for a server, which is then tried again by the loop that follows the study.
PATIENCE = 10
#: The most that one call may bring (https://mlflow.org/docs/latest/rest-api.html#request-limits).
METRICS, PARAMS, LONGEST = 1000, 100, 5000

_STATUS = {"done": "FINISHED", "stopped": "KILLED", "paused": "FAILED", "killed": "KILLED"}


class Mlflow(Tracker):
    """A run found again by its tag; a point is one batch of metrics."""

    def __init__(self, target: str, run: RunInfo) -> None:
        super().__init__(target, run)
        settings.MLFLOW_HTTP_REQUEST_TIMEOUT.set(PATIENCE)
        settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
        is_place = ":" in target
        self._uri = target if is_place else None
        self._experiment = (settings.MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT) if is_place else target
        self._client: Any = None
        self._run_id = ""

    def open(self) -> int:
        """Begin or resume the run."""
        with _explained():
            self._client = client = MlflowClient(tracking_uri=self._uri)
            found = client.get_experiment_by_name(self._experiment)
            experiment = found.experiment_id if found else client.create_experiment(self._experiment)
            runs = client.search_runs([experiment], f"tags.`{TAG}` = '{self.run.identity}'", max_results=1)
            if runs:
                self._run_id = runs[0].info.run_id
                client.update_run(self._run_id, status="RUNNING")
                return int(runs[0].data.metrics.get("step", -1.0)) + 1
            run = client.create_run(experiment, run_name=self.run.name, tags={TAG: self.run.identity})
            self._run_id = run.info.run_id
            params = [Param(_name(k), str(v)[:LONGEST]) for k, v in _flat(self.run.configuration)]
            for start in range(0, len(params), PARAMS):
                client.log_batch(self._run_id, params=params[start : start + PARAMS])
        return 0

    def log(self, points: Sequence[Point]) -> None:
        """Add points; the metric `step` says at a resume how many there are."""
        batch: list[Metric] = []
        for point in points:
            values = {**point.values, "step": float(point.step)}
            if len(batch) + len(values) > METRICS:
                self._send(batch)
                batch = []
            at = int(point.at.timestamp() * 1000)
            batch += [Metric(_name(key), value, at, point.step) for key, value in values.items()]
        self._send(batch)

    def describe(self, facts: Mapping[str, Value]) -> None:
        """Put facts into tags, where they may change."""
        tags = [RunTag(_name(key), str(value)[:LONGEST]) for key, value in facts.items()]
        with _explained():
            for start in range(0, len(tags), PARAMS):
                self._opened.log_batch(self._run_id, tags=tags[start : start + PARAMS])

    def close(self, ending: Ending) -> None:
        """Say how it ended."""
        with _explained():
            self._opened.set_terminated(self._run_id, _STATUS[ending])

    def _send(self, batch: list[Metric]) -> None:
        if batch:
            with _explained():
                self._opened.log_batch(self._run_id, metrics=batch)

    @property
    def _opened(self) -> Any:
        if self._client is None:
            raise TrackerError("the run was not opened")
        return self._client


def _flat(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """{"space": {"kind": "smooth"}} -> ("space.kind", "smooth")."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _name(text: str) -> str:
    """What MLflow takes as a name: letters, digits, and _-. :/"""
    return re.sub(r"[^\w\-. :/]", "_", text)[:250]


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackerError(str(error)) from error
