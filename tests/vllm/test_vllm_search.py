"""A whole search that generates with vLLM, and one that is resumed."""

from pathlib import Path

import pytest

from evomerge.study import Study
from evomerge.study.lines import FILE
from tests.vllm.conftest import Configured, run, told

pytestmark = pytest.mark.vllm


def test_a_search_and_its_resume(configured: Configured, tmp_path: Path) -> None:
    """A resumed search proposes and scores what an uninterrupted one does; transformers scores alike."""
    configured(study=str(tmp_path / "whole"), budget={"trials": 16})
    run(tmp_path / "search.yaml")
    whole = Study.read(tmp_path / "whole")
    assert whole.configuration["backend"]["kind"] == "vllm"
    assert whole.environment["vllm"].startswith("0.")
    assert any(entry.trial.label.startswith("rerun:") for entry in whole.entries.values())

    (tmp_path / "killed").mkdir()
    lines = (tmp_path / "whole" / FILE).read_bytes().splitlines(keepends=True)
    ends = [n for n, line in enumerate(lines) if b'"told"' in line]
    (tmp_path / "killed" / FILE).write_bytes(b"".join(lines[: ends[13] + 1]))
    assert len(told(tmp_path / "killed")) == 13
    configured(study=str(tmp_path / "killed"), budget={"trials": 16})
    run(tmp_path / "search.yaml", "--resume")
    assert told(tmp_path / "killed") == told(tmp_path / "whole")

    configured(study=str(tmp_path / "plain"), budget={"trials": 12}, backend="transformers")
    run(tmp_path / "search.yaml")
    plain = {facts[0]: facts[2] for facts in told(tmp_path / "plain")}
    same = [plain[facts[0]] == facts[2] for facts in told(tmp_path / "whole") if facts[0] != "search"]
    assert sum(same) >= len(same) - 1
