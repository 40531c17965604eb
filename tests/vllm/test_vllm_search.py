"""A whole search that generates with vLLM, and one that is resumed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.study import Study
from evomerge.study.lines import FILE
from evomerge.study.state import Entry
from tests.vllm.conftest import Configured

pytestmark = pytest.mark.vllm


def _run(file: Path, *options: str) -> None:
    done = CliRunner().invoke(app, ["search", str(file), *options])
    assert done.exit_code == 0, done.output


def _told(folder: Path) -> list[object]:
    entries = [
        entry for entry in Study.read(folder).entries.values() if entry.trial.split == "search" and entry.outcome
    ]
    return [_facts(entry) for entry in entries if entry.trial.label != "canary"]


def _facts(entry: Entry) -> object:
    assert entry.outcome is not None
    assert entry.outcome.failure is None
    scores = {task: (each.values.tolist(), each.accepted) for task, each in entry.outcome.scores.items()}
    return entry.trial.label, None if entry.trial.x is None else entry.trial.x.tolist(), scores


def test_a_search_and_its_resume(configured: Configured, tmp_path: Path) -> None:
    """A resumed search proposes and scores what an uninterrupted one does; transformers scores alike."""
    configured(study=str(tmp_path / "whole"), budget={"trials": 16})
    _run(tmp_path / "search.yaml")
    whole = Study.read(tmp_path / "whole")
    assert whole.configuration["backend"]["kind"] == "vllm"
    assert whole.environment["vllm"].startswith("0.")
    assert any(entry.trial.label.startswith("rerun:") for entry in whole.entries.values())

    (tmp_path / "killed").mkdir()
    lines = (tmp_path / "whole" / FILE).read_bytes().splitlines(keepends=True)
    told = [n for n, line in enumerate(lines) if b'"told"' in line]
    (tmp_path / "killed" / FILE).write_bytes(b"".join(lines[: told[13] + 1]))
    assert len(_told(tmp_path / "killed")) == 13
    configured(study=str(tmp_path / "killed"), budget={"trials": 16})
    _run(tmp_path / "search.yaml", "--resume")
    assert _told(tmp_path / "killed") == _told(tmp_path / "whole")

    configured(study=str(tmp_path / "plain"), budget={"trials": 12}, backend="transformers")
    _run(tmp_path / "search.yaml")
    plain = {facts[0]: facts[2] for facts in _told(tmp_path / "plain")}
    same = [plain[facts[0]] == facts[2] for facts in _told(tmp_path / "whole") if facts[0] != "search"]
    assert sum(same) >= len(same) - 1
