"""MLflow over a local database: the contract, names that it does not take, and a server that never answers."""

import socket
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from evomerge.trackers.base import Point, RunInfo, TrackerError
from evomerge.trackers.mlflow import EXPERIMENT, Mlflow
from tests.contracts.tracker import TrackerContract, points
from tests.evomerge.trackers.databases import database

# MLflow's own tables use what SQLAlchemy 2.1 gives up.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read_runs(uri: str, experiment: str = EXPERIMENT) -> list[Any]:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def read_history(uri: str, run: Any) -> dict[int, dict[str, float]]:
    client = MlflowClient(tracking_uri=uri)
    values: dict[int, dict[str, float]] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            values.setdefault(metric.step, {})[key] = metric.value
    return dict(sorted(values.items()))


class TestMlflow(TrackerContract):
    tracker = Mlflow

    def target(self, tmp_path: Path) -> str:
        return database(tmp_path)

    def read(self, tmp_path: Path) -> tuple[dict[int, dict[str, float]], dict[str, Any], dict[str, Any]]:
        (run,) = read_runs(self.target(tmp_path))
        assert run.info.status == "FINISHED"
        return read_history(self.target(tmp_path), run), run.data.tags, run.data.params

    def test_only_what_is_missing_is_sent_again(self, tmp_path: Path) -> None:
        first = self.make(tmp_path)
        first.open()
        first.log(points(0, 3))
        assert self.make(tmp_path).open() == 3
        assert self.make(tmp_path, "another").open() == 0
        assert len(read_runs(self.target(tmp_path))) == 2

    def test_names_and_amounts_that_it_does_not_take_arrive_all_the_same(self, tmp_path: Path) -> None:
        tracker = self.make(tmp_path)
        tracker.open()
        tracker.log(
            [Point(n, points(0, 1)[0].at, {f"task/{k}, näme!": float(n) for k in range(400)}) for n in range(5)]
        )
        tracker.close("done")
        values, _, configuration = self.read(tmp_path)
        assert [len(found) for found in values.values()] == [401] * 5
        assert configuration["tasks.a task_ with a name"] == "synthetic"


def test_a_server_that_never_answers_is_an_error_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.trackers.mlflow.PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        tracker = Mlflow(f"http://127.0.0.1:{deaf.getsockname()[1]}", RunInfo("abc", "night", tmp_path, {}))
        with pytest.raises(TrackerError):
            tracker.open()
