"""What `evomerge check` says of a search whose study has begun, ended or belongs to another search."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.config import load_config
from evomerge.launch import launch
from evomerge.launch.plan import prepare
from evomerge.study import Study
from evomerge.study.lines import FILE
from tests.toys import search_file


def write(folder: Path, **changes: object) -> Path:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **changes)), encoding="utf-8")
    return file


def check(file: Path) -> tuple[dict[str, Any], str]:
    """What it says of the study, and its last line for people."""
    plain, text = (CliRunner().invoke(app, ["check", str(file), *more]) for more in (["--json"], []))
    assert (plain.exit_code, text.exit_code) == (0, 0), text.output
    return json.loads(plain.stdout)["study"], text.stdout.splitlines()[-1]


def run(file: Path) -> None:
    config = load_config(file)
    launch.run(config, prepare(config), resume=False)


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """The search file of a study that is done."""
    file = write(tmp_path, budget={"trials": 12})
    assert check(file) == (
        {"state": "new", "told": 0, "evaluations": 0.0, "left": True},
        f"Ready: evomerge search {file}",
    )
    run(file)
    return file


def test_a_spent_budget_states_what_to_raise(done: Path) -> None:
    data, line = check(done)
    assert data == {"state": "done", "told": 12, "evaluations": 12.0, "left": False}
    assert line.startswith("Nothing is left to do: the budget is spent (12 of 12 trials) and the winner selected. ")
    assert f"raise budget.trials and run evomerge search {done} --resume" in line
    data, line = check(write(done.parent, budget={"trials": 14}))
    assert (data["left"], line) == (
        True,
        f"Ready: evomerge search {done} --resume continues (12 of 14 trials completed so far)",
    )
    data, line = check(write(done.parent, budget={"hours": 1e-9}))
    assert (data["left"], "raise budget.hours" in line) == (False, True)
    data, line = check(write(done.parent, budget={"trials": 20, "money": 1e-9, "price_per_hour": 2}))
    assert (data["left"], "raise budget.money" in line) == (False, True)


@pytest.mark.parametrize("lost", [False, True])
def test_a_finished_study_is_resumed_without_workers(done: Path, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    config = load_config(done).model_copy(update={"executor": "ray"})
    if lost:
        (config.study / "search.yaml").unlink()
    trials, said = Study.read(config.study).entries.keys(), list[str]()
    with monkeypatch.context() as patched:
        patched.setattr(launch, "start_executor", None)
        ending, selection = launch.run(config, prepare(config), resume=True, say=said.append)
    assert (ending.kind, selection is not None) == ("done", True)
    assert Study.read(config.study).entries.keys() == trials
    assert (config.study / "search.yaml").is_file()
    expected = (
        f"The study in {config.study} is finished: the budget is spent (12 of 12 trials) and the winner selected. "
        "To continue the search, raise budget.trials and resume again; for a new search choose another `study` folder."
    )
    assert said == [expected]
    assert "is finished: the budget" in CliRunner().invoke(app, ["search", str(done), "--resume"]).stdout


@pytest.mark.parametrize("missing", ["report", "select"])
def test_a_study_that_lacks_a_score_of_its_selection_is_not_finished(done: Path, missing: str) -> None:
    """As after a kill between the last trial of a split that is recorded and the next."""
    ledger = done.parent / "study" / FILE
    lines = ledger.read_text().splitlines(keepends=True)
    last = [n for n, line in enumerate(lines) if f'"split":"{missing}"' in line.replace(" ", "")][-1]
    ledger.write_text("".join(lines[:last]))
    data, line = check(done)
    assert (data["left"], line.endswith("but its result is missing")) == (True, True)
    config = load_config(done)
    said = list[str]()
    ending, _ = launch.run(config, prepare(config), resume=True, say=said.append)
    assert (ending.kind, "starting serial workers" in said) == ("done", True)
    assert check(done)[0]["left"] is False


def test_selection_may_remain_after_the_budget_is_spent(done: Path) -> None:
    ledger = done.parent / "study" / FILE
    lines = ledger.read_text().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if '"split":"select"' in line.replace(" ", ""))
    ledger.write_text("".join(lines[:first]))
    data, line = check(done)
    assert data == {"state": "open", "told": 12, "evaluations": 12.0, "left": True}
    assert line.endswith(
        "--resume finishes the study: its budget is spent (12 of 12 trials), but its result is missing"
    )


def test_nothing_is_left_once_the_optimizer_needs_no_more_trials(tmp_path: Path) -> None:
    file = write(tmp_path, method="linear", space="uniform", optimizer="greedy_soup", budget={"trials": 100})
    run(file)
    data, line = check(file)
    assert (data["state"], data["left"]) == ("done", False)
    assert line.startswith(f"Nothing is left to do: greedy_soup needs no more trials ({data['told']} of 100 trials)")


def test_the_study_of_another_search_is_refused_before_it_is_run(done: Path) -> None:
    changed = write(done.parent, budget={"trials": 12}, seed=99)
    for command in ("check", "plan"):
        refused = CliRunner().invoke(app, [command, str(changed)])
        assert refused.exit_code == 2
        assert "seed: 3 -> 99" in refused.stderr
    shutil.rmtree(done.parent / "study")
    assert check(changed)[0]["state"] == "new"
