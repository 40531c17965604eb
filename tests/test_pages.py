"""The documentation beyond links and commands: generated pages are current, blocks of code run, the site is whole."""

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_documents import CURRENT, ROOT, name, read
from tests.test_documents import DOCS as PAGES

DOCS = ROOT / "docs"
_FENCE = re.compile(r"(<!-- needs: [\w ]+ -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- needs: ([\w ]+) -->")
#: A mark, then a block, or a block alone; in groups: the mark, and the block's lines.
_BLOCK = re.compile(r"(?:<!-- needs: ([\w ]+) -->\n)?((?:^ {4}[^\n]*\n)+)", re.MULTILINE)
#: Requirements with which a block may be marked.
NEEDS = {"gpu", "hub", "time", "a cluster"}
#: Languages of blocks: text, and those that tests read: search files and recipes in `test_documents`, Python here.
TESTED = {"yaml", "python", "text"}


@pytest.mark.parametrize("page", ["commands.md", "search-file-keys.md", "plug-ins.md", "python-api.md"])
def test_generated_pages_are_current(page: str) -> None:
    pages = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
    assert read(DOCS / "reference" / page) == pages[page], "`python docs/generate.py` writes it again"
    assert set(pages) == {path.name for path in (DOCS / "reference").iterdir()}


@pytest.mark.parametrize("path", CURRENT, ids=name)
def test_blocks_of_code_are_of_a_kind_that_tests_read(path: Path) -> None:
    text = read(path)
    assert set(_MARK.findall(text)) <= NEEDS
    for _, language, code in _FENCE.findall(text):
        assert language in TESTED, code
        if language == "python":
            ast.parse(code)


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    navigation = read(DOCS / "mkdocs.yml")
    for path in PAGES:
        assert f" {path.relative_to(ROOT).as_posix()}\n" in navigation, path
    for file in re.findall(r": (\S+\.md)\n", navigation):
        assert (ROOT / file).exists(), file


def test_the_site_has_all_that_documents_link_to(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DOCS / "stage.py", tmp_path / "site"], check=True)
    source = tmp_path / "site" / "source"
    staged = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert {"README.md", "docs/README.md", "docs/pictures/power.svg", "docs/first-search.ipynb"} <= staged
    assert {path.relative_to(ROOT).as_posix() for path in PAGES} <= staged


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").encode()) <= 7000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a user follows the tutorials: `evomerge demo` has trained its models there."""
    from evomerge.commands.demo import begin_demo, train_models

    folder = tmp_path_factory.mktemp("tutorials")
    begin_demo(folder / "evomerge-demo")
    if (ROOT / "models/base").exists():
        (folder / "evomerge-demo/models").symlink_to(ROOT / "models")
    train_models(folder / "evomerge-demo", say=lambda _: None)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", ["first-merge", "first-search", "pareto"])
def test_a_tutorial_runs_as_it_is_written(place: Path, page: str) -> None:
    text = read(DOCS / "tutorials" / f"{page}.md")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    evomerge = f'evomerge() {{ {shlex.quote(sys.executable)} -m evomerge.cli "$@"; }}'

    def run(command: list[str], **settings: Any) -> None:
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, check=False, **settings
        )
        assert done.returncode == 0, done.stdout + done.stderr

    for file, content in re.findall(r"`([\w.-]+\.yaml)`:\n\n```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (place / file).write_text(content, encoding="utf-8")
    for needs, block in _BLOCK.findall(text):
        commands = block.replace("\\\n", " ").splitlines()
        interactive = "    evomerge pick runs/front"
        for line in commands:
            if not needs and line.strip() and line != interactive:
                run(["bash", "-c", f"{evomerge}; {line}"])
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        run([sys.executable, "-c", code])


@pytest.mark.slow
def test_the_notebook_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(DOCS / "first-search.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(place)}}).execute()
    shown = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert "held-out examples" in shown
