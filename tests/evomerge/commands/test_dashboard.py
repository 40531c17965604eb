"""The dashboard answers while a search runs, and neither it nor its death changes anything for the search."""

import json
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.commands.dashboard import is_local
from evomerge.study import Study
from evomerge.study.lines import FILE
from tests.evomerge.forks import Fork
from tests.evomerge.report.studies import write_study
from tests.evomerge.searches import evomerge, history, run_here, write_search
from tests.waiting import CEILING, wait_until

TRIALS = 30


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=CEILING) as answer:
        assert answer.status == 200
        return answer.read()


def trials(address: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(get(address.replace("/dashboard", "/api/studies/0")))["trials"]
    return found


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of a search that nobody looked at."""
    folder = tmp_path_factory.mktemp("unwatched")
    run_here(write_search(folder, trials=TRIALS))
    return folder / "study"


def address_of(dashboard: Fork) -> str:
    assert dashboard.stdout is not None
    return str(json.loads(dashboard.stdout.readline())["url"])


def test_a_running_search_is_shown_and_killing_the_dashboard_changes_nothing(tmp_path: Path, unwatched: Path) -> None:
    folder = tmp_path / "study"
    with evomerge("search", write_search(tmp_path, trials=10**6, delay=0.1)) as search:
        wait_until((folder / FILE).exists)
        with evomerge("dashboard", folder, "--port", 0, "--no-browser", "--json") as dashboard:
            address = address_of(dashboard)
            assert b"<html" in get(address).lower()
            wait_until(lambda: len(trials(address)) > 2)
            before = len(trials(address))
            wait_until(lambda: len(trials(address)) > before)
            dashboard.kill()
        count = len(Study.read(folder).told)
        wait_until(lambda: len(Study.read(folder).told) > max(count + 3, TRIALS))
        search.send_signal(signal.SIGINT)
        _, errors = search.communicate(timeout=CEILING)
    assert (search.returncode, errors) == (75, "")
    assert history(folder)[:TRIALS] == history(unwatched)[:TRIALS]


def test_a_finished_search_is_shown_whole_until_ctrl_c(unwatched: Path) -> None:
    with evomerge("dashboard", unwatched, "--port", 0, "--no-browser", "--json") as dashboard:
        shown = trials(address_of(dashboard))
        dashboard.send_signal(signal.SIGINT)
        _, errors = dashboard.communicate(timeout=CEILING)
    assert (dashboard.returncode, errors) == (0, "")
    searched = [e for e in Study.read(unwatched).entries.values() if e.trial.split == "search"]
    assert [trial["number"] for trial in shown] == [entry.trial.number for entry in searched]
    scored = [trial["values"][0] for trial in shown if trial["state"] == "Complete"]
    assert scored == [-entry.losses[0] for entry in searched if entry.losses]


def test_an_address_for_others_is_warned_of(unwatched: Path) -> None:
    with evomerge("dashboard", unwatched, "--port", 0, "--no-browser", "--host", "0.0.0.0") as dashboard:
        assert dashboard.stdout is not None
        first, second = dashboard.stdout.readline(), dashboard.stdout.readline()
        dashboard.send_signal(signal.SIGINT)
        dashboard.communicate(timeout=CEILING)
    assert "Ctrl-C stops the dashboard" in first
    assert second.startswith("warning: anyone who reaches http://0.0.0.0:")
    with evomerge("dashboard", unwatched, "--port", 0, "--no-browser", "--host", "0.0.0.0", "--json") as dashboard:
        assert dashboard.stdout is not None
        data = json.loads(dashboard.stdout.readline())
        dashboard.send_signal(signal.SIGINT)
        dashboard.communicate(timeout=CEILING)
    assert data["warning"].startswith(f"anyone who reaches {data['url']} can read this study")
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.7", "node-1")] == [
        *[True] * 3,
        *[False] * 3,
    ]


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_the_exported_study_opens_in_optuna(tmp_path: Path, name: str) -> None:
    write_study(tmp_path / "run").close()
    done = CliRunner().invoke(app, ["dashboard", str(tmp_path / "run"), "--export", str(tmp_path / name), "--json"])
    assert json.loads(done.stdout)["trials"] == 8
    storage: Any = f"sqlite:///{tmp_path / name}"
    if name.endswith(".log"):
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / name)))
    study = optuna.load_study(study_name="run", storage=storage)
    assert (study.best_trial.number, study.best_value) == (0, 0.75)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", name]
    export = ["dashboard", str(tmp_path / "run"), "--export", str(tmp_path / name)]
    again = CliRunner().invoke(app, export)
    assert again.exit_code == 2
    assert "exists. Choose another file, or --overwrite to replace it." in again.stderr
    assert CliRunner().invoke(app, [*export, "--overwrite"]).exit_code == 0


def test_missing_study_suffix_or_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    assert "There is no study" in run(app, ["dashboard", str(tmp_path)]).stderr
    write_study(tmp_path / "run").close()
    other = run(app, ["dashboard", str(tmp_path / "run"), "--export", str(tmp_path / "study.csv")])
    assert (other.exit_code, ".db, .sqlite" in other.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    missing = run(app, ["dashboard", str(tmp_path / "run"), "--no-browser"])
    assert (missing.exit_code, "pip install 'evomerge[dashboard]'" in missing.stderr) == (2, True)


def test_a_wrong_folder_is_an_error_before_heavy_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evomerge.commands.dashboard", None)
    assert "There is no study" in CliRunner().invoke(app, ["dashboard", str(tmp_path)]).stderr


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    write_study(tmp_path / "run").close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["dashboard", str(tmp_path / "run"), "--no-browser", "--port", port])
    assert (done.exit_code, f"127.0.0.1:{port}" in done.stderr) == (2, True)
