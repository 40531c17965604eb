"""Sinks beside a real search: they get its numbers, and nothing that happens to them happens to it."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.start_trackers import Trackers
from evomerge.report.snapshot import take
from evomerge.run import Run
from evomerge.study import Study
from evomerge.study.lines import FILE
from tests.evomerge.searches import evomerge, history, run_here, write_search
from tests.evomerge.trackers.databases import database
from tests.evomerge.trackers.test_mlflow import read_history, read_runs
from tests.evomerge.trackers.test_wandb import read_offline
from tests.waiting import CEILING, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TRIALS = 14


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of a search without trackers."""
    folder = tmp_path_factory.mktemp("alone")
    run_here(write_search(folder, trials=TRIALS))
    return folder / "study"


def search(folder: Path, *options: object, **environment: str) -> list[dict[str, Any]]:
    """Run a search to its end in a process that its trackers may outlive; what it said."""
    with evomerge("search", write_search(folder, trials=TRIALS), *options, "--json", **environment) as process:
        said, errors = process.communicate(timeout=CEILING)
        assert (process.returncode, errors) == (0, "")
    return [json.loads(line) for line in said.splitlines()]


def sinks_said(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines if line["event"] == "sink"]


def ended(log: Path) -> bool:
    """Whether no process has the log open any more."""
    descriptors = (path for path in Path("/proc").glob("[0-9]*/fd/*") if os.access(path.parent, os.R_OK))
    return not any(_target(path) == str(log) for path in descriptors)


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


@pytest.mark.slow
def test_both_trackers_have_the_numbers_of_the_ledger(tmp_path: Path, alone: Path) -> None:
    uri = database(tmp_path)
    lines = search(tmp_path, "--wandb", "merges", "--mlflow", uri, WANDB_MODE="offline")
    study = Study.read(tmp_path / "study")
    assert history(study.folder) == history(alone)
    for kind in ("wandb", "mlflow"):
        wait_until(lambda kind=kind: ended(study.folder / "sinks" / f"{kind}.log"))  # type: ignore[misc]
    selected = next(line for line in lines if line["event"] == "selected")
    searched = [entry for entry in study.told if entry.trial.split == "search"]
    scores = [None if entry.losses is None else -entry.losses[0] for entry in searched]
    best = take(Run.of(study)).best
    assert best is not None
    (run,) = read_runs(uri)
    offline, summary, configuration, _ = read_offline(study.folder / "sinks")
    for logged in (read_history(uri, run), offline):
        points = list(logged.values())
        assert [point.get("score") for point in points] == scores
        assert [point["trial"] for point in points] == [entry.trial.number for entry in searched]
        assert points[-1]["best"] == best.score.mean
        assert points[-1]["completed"] == TRIALS
        assert points[-1]["failures"] == scores.count(None)
    baselines = {model.label: model.means["two"] for model in take(Run.of(study)).baselines}
    for facts in (run.data.tags, summary):
        assert facts["verdict"] == selected["verdict"]
        assert facts["winner"] == selected["winner"]
        assert facts["state"] == "done"
        assert {label: float(facts[f"baseline/{label}/task/two"]) for label in baselines} == baselines
        assert float(facts["report/base/task/one"]) == _report_of(selected, "base")["tasks"]["one"]["mean"]
        assert float(facts["report/base"]) == next(s["mean"] for s in selected["standings"] if s["label"] == "base")
    assert configuration["seed"] == study.configuration["seed"]
    assert run.info.status == "FINISHED"


def _report_of(selected: dict[str, Any], label: str) -> dict[str, Any]:
    return next(standing for standing in selected["standings"] if standing["label"] == label)


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def left_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the trackers that outlive a search in this process."""
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def listed(*given: Any, **settings: Any) -> subprocess.Popen[bytes]:
        started.append(start(*given, **settings))
        return started[-1]

    monkeypatch.setattr("evomerge.commands.start_trackers.subprocess.Popen", listed)
    yield
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.fault("F39", "a tracker that never answers", "the search ends in time and says so")
def test_a_tracker_that_hangs_costs_the_search_a_moment_at_its_end(
    tmp_path: Path, alone: Path, deaf: str, left_over: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.commands.start_trackers.LAST", 0.5)
    lines = run_here(write_search(tmp_path, trials=TRIALS), "--mlflow", deaf)
    assert history(tmp_path / "study") == history(alone)
    assert len(sinks_said(lines)) == 1
    assert "is still sending" in sinks_said(lines)[0]


def test_a_missing_tracker_library_is_reported_once(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evomerge.commands.start_trackers.find_spec", lambda name: None if name == "wandb" else find_spec(name)
    )
    lines = run_here(write_search(tmp_path, trials=TRIALS), "--wandb", "merges")
    assert sinks_said(lines) == [
        "wandb is not installed: pip install 'evomerge[wandb]'; the search continues without it"
    ]
    assert history(tmp_path / "study") == history(alone)


@pytest.mark.slow
@pytest.mark.fault("F39", "a tracker's process is killed", "said in one line; sent on resume")
def test_a_killed_sink_is_noticed_and_a_resumed_search_sends_what_is_missing(tmp_path: Path) -> None:
    uri, folder = database(tmp_path), tmp_path / "study"
    log = folder / "sinks" / "mlflow.log"
    with evomerge("search", write_search(tmp_path, trials=10**6, delay=0.1), "--mlflow", uri, "--json") as process:
        wait_until(lambda: bool(sinks_of(process.pid)))
        (tracker,) = sinks_of(process.pid)
        os.kill(int(tracker.name), signal.SIGKILL)
        assert process.stdout is not None
        said = next(line for line in map(json.loads, process.stdout) if line["event"] == "sink")
        assert said["message"] == f"mlflow exited with code -9, see {log}; the search continues"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=CEILING)
    assert process.returncode == 75
    count = len([entry for entry in Study.read(folder).entries.values() if entry.trial.split == "search"])
    with evomerge("search", folder / "search.yaml", "--resume", "--trials", count, "--mlflow", uri) as process:
        process.communicate(timeout=CEILING)
    assert process.returncode == 0
    wait_until(lambda: ended(log))
    (run,) = read_runs(uri)
    searched = [entry for entry in Study.read(folder).told if entry.trial.split == "search"]
    assert [point["trial"] for point in read_history(uri, run).values()] == [e.trial.number for e in searched]


@pytest.mark.slow
def test_a_study_that_is_done_is_sent_by_a_resume(tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "study"  # whose tables the tracker makes
    run_here(write_search(tmp_path, trials=TRIALS))
    search(tmp_path, "--resume", "--mlflow", uri)  # in a process that the tracker may outlive
    wait_until(lambda: ended(folder / "sinks" / "mlflow.log"))
    (run,) = read_runs(uri)
    searched = [entry for entry in Study.read(folder).told if entry.trial.split == "search"]
    assert [point["trial"] for point in read_history(uri, run).values()] == [e.trial.number for e in searched]
    assert (run.data.tags["state"], run.info.status) == ("done", "FINISHED")


def sinks_of(pid: int) -> list[Path]:
    """Its children that are trackers by now; right after its start a child still is a copy of its parent."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [p for child in children if b"evomerge.trackers" in ((p := Path("/proc") / child) / "cmdline").read_bytes()]


def test_a_stopped_process_is_told_the_end_without_waiting_for_it_to_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.commands.start_trackers.LAST", 1.0)
    write_search(tmp_path)
    (tmp_path / "study").mkdir()
    trackers = Trackers({"mlflow": "an experiment"})
    assert trackers.news(tmp_path / "study") == []
    process = trackers._running[0].process
    os.kill(process.pid, signal.SIGSTOP)
    try:
        left = trackers.end("done", {"long": "x" * 200_000})
    finally:
        process.kill()
        process.wait()
    assert ["still sending" in text for text in left] == [True]
    assert (tmp_path / "study" / FILE).exists() is False
