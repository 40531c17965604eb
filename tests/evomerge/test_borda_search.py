"""A search by ranks among parents and baselines: what it tells, and that a resume goes on exactly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.objective.borda import borda
from evomerge.run import Run
from evomerge.study import Study
from tests.evomerge.searches import history, run_here, write_search


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search."""
    file = write_search(tmp_path_factory.mktemp("borda"), trials=24, delay=0.0, objective="borda")
    run_here(file)
    return file.parent / "study"


def test_the_optimizer_is_told_ranks_among_parents_and_baselines(searched: Path) -> None:
    run = Run(searched)
    told = run.optimizer._told
    scored = {e.trial.number: run.objective.by_task(e.outcome.scores) for e in run.study.told if e.losses is not None}
    fixed = [e.trial.number for e in run.study.told if e.trial.split == "search" and e.trial.merge is not None]
    models = np.array([scored[number] for number in fixed if number in scored])
    assert len(models) > 5
    for number, seen in told.items():
        if seen.losses is not None:
            assert seen.losses.tolist() == [-borda(scored[number], models, np.array([0.5, 0.5]))]
    assert len(told) == 24


@pytest.mark.parametrize("kept", [0.4, 0.8])
def test_a_resume_proposes_what_the_search_would_have_proposed(searched: Path, tmp_path: Path, kept: float) -> None:
    study, file = tmp_path / "study", tmp_path / "search.yaml"
    shutil.copytree(searched, study)
    file.write_text((searched.parent / "search.yaml").read_text().replace(str(searched), str(study)))
    lines = (study / "ledger.jsonl").read_text().splitlines(keepends=True)
    (study / "ledger.jsonl").write_text("".join(lines[: int(kept * len(lines))]))
    run_here(file, "--resume")
    wanted, found = ([line for line in history(folder) if len(line) == 6] for folder in (searched, study))
    assert found == wanted


def test_status_shows_the_rank_and_says_what_it_is(searched: Path) -> None:
    said = " ".join(CliRunner().invoke(app, ["status", str(searched)]).stdout.split())
    assert "borda 0." in said
    assert "borda: the share of parents and baselines on the split that a merge beats" in said
    data = json.loads(CliRunner().invoke(app, ["status", str(searched), "--json"]).stdout)
    assert 0.0 < data["best"]["decisive"]["borda"] < 1.0
    assert "; borda 0." in data["result"]["verdict"] or "itself a baseline" in data["result"]["verdict"]
    assert Study.read(searched).configuration["objective"] == "borda"
