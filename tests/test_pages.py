"""The documentation beyond links and commands: generated pages are current, the site is whole."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import DOCS as PAGES
from tests.test_documents import ROOT, read

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", ["commands.md", "search-file-keys.md", "plug-ins.md", "python-api.md"])
def test_generated_pages_are_current(page: str) -> None:
    pages = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
    assert read(DOCS / "reference" / page) == pages[page], "`python docs/generate.py` writes it again"
    assert set(pages) == {path.name for path in (DOCS / "reference").iterdir()}


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
