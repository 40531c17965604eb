"""The packages beside evomerge: its own, whatever else has their names."""

import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.own_packages import PACKAGES, folder_of

ROOT = Path(__file__).parents[2]


def python(code: str, *path: Path) -> str:
    start = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}; "
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("form", ["evaluators.py", "evaluators/__init__.py", "search_spaces/__init__.py"])
def test_they_win_over_others_of_their_names(tmp_path: Path, form: str) -> None:
    (tmp_path / form).parent.mkdir(exist_ok=True)
    (tmp_path / form).write_text("raise SystemExit('the other one')\n")
    name = Path(form).parts[0].removesuffix(".py")
    found = python(f"import evomerge, {name}; print({name}.__file__)", tmp_path, ROOT)
    assert found == f"{ROOT / name / '__init__.py'}\n"
    assert folder_of(name) == ROOT / name


@pytest.mark.parametrize("name", PACKAGES)
def test_another_one_that_is_imported_already_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("")
    code = f"import {name}\ntry: import evomerge\nexcept ImportError as error: print(error)"
    assert f"has imported another one, {tmp_path / name}.py. Use" in python(code, tmp_path, ROOT)


def test_ours_may_be_imported_before() -> None:
    python("import evaluators.base, evomerge; assert evomerge.load_config", ROOT)
