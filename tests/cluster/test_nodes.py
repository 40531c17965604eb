"""Searches on clusters whose nodes join, leave with and without notice, and lose their head."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.study import Study
from evomerge.study.lines import FILE
from tests.cluster.clusters import Driver, TestCluster, cluster, lines_of, needs_namespaces
from tests.toys import search_file

pytestmark = [pytest.mark.cluster, needs_namespaces]


def write_search(folder: Path, trials: int, delay: float = 0.1, **changes: object) -> Path:
    tasks = {"one": {"evaluator": "synthetic", "n_examples": 60, "delay": delay}}
    settings = {"executor": "ray", "ray_address": "auto", "ray_insecure": True, "budget": {"trials": trials}}
    file = folder / "search.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(strict_yaml.dump(search_file(folder, tasks=tasks, **settings | changes)))
    return file


def told(folder: Path) -> int:
    ledger = folder / "study" / FILE
    return ledger.read_bytes().count(b'"kind":"told"') if ledger.exists() else 0


def wait_for(driver: Driver, folder: Path, more: int) -> None:
    """Wait until this many more trials have been told. Fails if the driver ends meanwhile."""
    target = told(folder) + more
    driver.wait_until(lambda: told(folder) >= target)


def check_whole(folder: Path, trials: int) -> Study:
    """Every trial of the budget was told, once."""
    study = Study.read(folder / "study")
    numbers = [entry.trial.number for entry in study.told]
    assert len(set(numbers)) == len(numbers)
    assert not study.pending
    assert sum(entry.trial.counts and entry.trial.split == "search" for entry in study.told) == trials
    assert not [data for kind, data in study.events if kind == "duplicate"]
    return study


@pytest.fixture
def three(tmp_path: Path) -> Iterator[TestCluster]:
    with cluster(3) as made:
        yield made


@pytest.mark.fault(
    "F8", "three nodes: one is drained, one killed, one joins", "all trials end; what ran on the lost node runs again"
)
def test_a_search_goes_on_while_nodes_are_drained_lost_and_join(three: TestCluster, tmp_path: Path) -> None:
    file = write_search(tmp_path, trials=400)
    driver = three.evomerge("search", file)
    wait_for(driver, tmp_path, 6)
    three.call("drain", 0, 600)
    wait_for(driver, tmp_path, 40)
    three.call("kill", 0)
    wait_for(driver, tmp_path, 20)
    three.call("kill", 1)
    wait_for(driver, tmp_path, 20)
    three.call("add", 2, 4e9)
    assert driver.wait() == 0, driver.words
    check_whole(tmp_path, 400)
    lines = lines_of(driver.out)
    said = " ".join(str(line.get("message", "")) for line in lines)
    for sentence in ("3 workers on 4 nodes", "will be taken away: running", "is gone; ", "has joined, with 2 CPUs"):
        assert sentence in said, said
    assert max(line["slots"] for line in lines if "slots" in line) >= 3
    assert lines[-1]["exit_code"] == 0


@pytest.mark.fault("F8", "all nodes are gone", "waited for and said; the search goes on when one is back")
def test_no_node_at_all_is_waited_for(tmp_path: Path) -> None:
    file = write_search(tmp_path, trials=40)
    with cluster(1) as made:
        driver = made.evomerge("search", file)
        wait_for(driver, tmp_path, 4)
        made.call("kill", 0)
        driver.wait_until(lambda: "waiting for nodes" in driver.out)
        made.call("add", 1, 2e9)
        assert driver.wait() == 0, driver.words
    assert "waiting for nodes" in driver.out
    check_whole(tmp_path, 40)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.fault(
    "F9", "the head of a cluster is killed, or hangs", "exit code 5, `paused` recorded; goes on on another cluster"
)
def test_a_lost_head_pauses_the_study_which_goes_on_on_another_cluster(tmp_path: Path, number: int) -> None:
    file = write_search(tmp_path, trials=10**6)
    with cluster(2) as made:
        driver = made.evomerge("search", file)
        wait_for(driver, tmp_path, 6)
        made.call("signal_head", number)
        assert driver.wait() == 5, driver.words
    assert lines_of(driver.out)[-1]["exit_code"] == 5
    assert "To resume: evomerge search" in driver.out
    kind, data = Study.read(tmp_path / "study").events[-1]
    assert (kind, "head of the Ray cluster" in data["reason"]) == ("paused", True), data
    trials = sum(entry.trial.counts for entry in Study.read(tmp_path / "study").told) + 5
    file = write_search(tmp_path, trials=trials)
    with cluster(1) as made:
        driver = made.evomerge("search", file, "--resume")
        assert driver.wait() == 0, driver.words
    check_whole(tmp_path, trials)


@pytest.mark.fault("F37", "SIGTERM in a job of a cluster", "the ledger is closed and the process gone in seconds")
def test_a_job_uses_its_cluster_and_is_gone_soon_after_sigterm(three: TestCluster, tmp_path: Path) -> None:
    file = write_search(tmp_path, trials=10**6, delay=30, ray_address=None)
    driver = three.evomerge("search", file, RAY_ADDRESS=three.address)
    driver.wait_until(lambda: (tmp_path / "study" / FILE).exists())
    time.sleep(3)  # all workers are busy
    begin = time.monotonic()
    driver.signal(signal.SIGTERM)  # `ray job stop`
    code = driver.wait()
    took = time.monotonic() - begin
    assert code == 143, driver.words
    assert took < 3
    assert f"Ray cluster at {three.address}" in driver.out
    assert Study.read(tmp_path / "study").events[-1][0] == "stopped"


def plan(made: TestCluster, file: Path, **environment: str) -> tuple[int, dict[str, Any], str]:
    driver = made.evomerge("plan", file, "--json", **environment)
    code = driver.wait()
    assert driver.out, driver.words
    data = json.loads(driver.out.splitlines()[-1])
    return code, data, str(data.get("error", ""))


def test_tokens(tmp_path: Path) -> None:
    token, file = "a" * 32, write_search(tmp_path, trials=20)
    with cluster(1, token=token) as made:
        code, _, said = plan(made, file)
        assert code == 2
        assert "requires a token, and there is none here" in said
        assert all(place in said for place in ("RAY_AUTH_TOKEN,", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"))
        code, _, said = plan(made, file, RAY_AUTH_TOKEN="b" * 32)
        assert (code, "does not accept the token" in said) == (2, True)
        (made.folder / ".ray").mkdir()
        (made.folder / ".ray" / "auth_token").write_text(token)
        code, data, said = plan(made, file)
        assert (code, said) == (0, "")
        assert [node["workers"] for node in data["cluster"]["nodes"]] == [0, 1]
        driver = made.evomerge("search", write_search(tmp_path, trials=20, ray_insecure=False))
        assert driver.wait() == 0, driver.words
        check_whole(tmp_path, 20)


@pytest.mark.fault("F41", "a cluster without authentication", "refused unless `ray_insecure` is set")
def test_an_open_cluster_is_refused_and_models_must_be_on_every_node(tmp_path: Path) -> None:
    with cluster(1) as made:
        code, _, said = plan(made, write_search(tmp_path, trials=20, ray_insecure=False))
        assert (code, "has no authentication" in said, "ray_insecure: true" in said) == (2, True, True)
        file = write_search(tmp_path, trials=20)
        assert plan(made, file)[0] == 0
        made.call("add_without", 1, 2e9, str(tmp_path / "models"))
        code, _, said = plan(made, file)
        assert code == 3
        assert f"it has no {tmp_path / 'models'}" in said
        assert "Use a folder that all nodes share" in said
