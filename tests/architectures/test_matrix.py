"""Every kind of network: check, merge, resident = export = transformers, search; the table in the documentation."""

import re
from pathlib import Path

import pytest

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.resident.resident import load_resident
from tests.architectures.kinds import KINDS
from tests.architectures.models import differences, evaluators_of, run, write_models, write_search
from tests.architectures.table import DOCUMENT, HEAD, loading, row


def test_the_table_in_the_documentation_has_every_kind() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `(\w+)` \| .+ \| `(\w+)`(?:, `\w+`)* \|$", text, re.MULTILINE)
    assert text.startswith(HEAD)
    assert rows == [(name, kind.architecture, kind.task) for name, kind in KINDS.items()]
    assert len(KINDS) >= 40
    assert "docs/architectures.md" in (DOCUMENT.parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = write_models(kind, tmp_path)
    base = Checkpoint.open(places["base"])
    staged = load_resident(base, base.path, None, "cpu").staged
    scored = evaluators_of(kind, places["base"], tmp_path)
    assert row(kind, loading(base.path), len(staged), scored) in DOCUMENT.read_text(encoding="utf-8").splitlines()
    assert differences(kind, places, tmp_path / "out") == []
    file = write_search(tmp_path, kind)
    code, said = run("check", file)
    assert code == 0, said
    code, said = run("search", file, "--json")
    assert code == 0, said
    assert '"winner"' in said
