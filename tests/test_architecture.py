"""The architecture is a test: straight imports, independent plug-ins, light start-up, contracts that bite."""

import ast
import importlib.util
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.plugins import PACKAGES, names

ROOT = Path(__file__).parents[1]
PACKAGES_OF_OURS = ("evomerge", "search_spaces", "evaluators")
HEAVY = ("torch", "ray", "transformers", "lm_eval", "optuna", "scipy", "cmaes")


def modules() -> list[str]:
    found = []
    for package in PACKAGES_OF_OURS:
        found.append(package)
        walked = pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")
        found += [module.name for module in walked]
    return found


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(900)  # some 400 processes, on machines with other work
def test_every_module_can_be_imported_first() -> None:
    """A module that works only after another one was imported hides a cycle. One fork per module, one start."""
    code = (
        "import importlib, os, sys\n"
        f"for name in {modules()!r}:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            importlib.import_module(name)\n"
        "        except BaseException as error:\n"
        "            print(name, repr(error), flush=True); os._exit(1)\n"
        "        os._exit(0)\n"
        "    if os.waitpid(child, 0)[1]: sys.exit(f'{name} cannot be imported first')\n"
    )
    # Third parties are loaded before the forks: it is our own order that is tested.
    python("import torch, transformers.conversion_mapping, lm_eval, optuna, cmaes, scipy.stats, ray\n" + code)


@pytest.mark.parametrize("module", ["evomerge", "evomerge.cli"])
def test_start_up_loads_nothing_heavy(module: str) -> None:
    loaded = python(f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


def test_labels_of_trials_are_read_in_one_module() -> None:
    """Everything else asks `Trial.origin` and the functions beside it."""
    calls = r"label\)?\.(startswith|endswith|r?partition|r?split|remove(pre|suf)fix)\("
    words = r"[\"'](parent|trial|rerun|recommended):"
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in sorted((ROOT / "evomerge").rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(f"{calls}|{words}", line) and file != ROOT / "evomerge" / "trial.py"
    ]
    assert found == []


@pytest.mark.parametrize("what", list(PACKAGES))
def test_plugins_do_not_import_each_other(what: str) -> None:
    package = PACKAGES[what]
    plugins = names(what)
    for name in plugins:
        spec = importlib.util.find_spec(f"{package}.{name}")
        assert spec is not None
        assert spec.origin is not None
        imported = set()
        for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module)
                imported.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
        assert not imported & {f"{package}.{other}" for other in plugins}, name


@pytest.mark.parametrize(
    ("file", "text", "broken"),
    [
        ("evomerge/utils.py", '"""Odds and ends."""\n', "evomerge.utils"),
        ("evomerge/trial.py", "import evomerge.search  # noqa\n", "evomerge.trial -> evomerge.search"),
        ("search_spaces/uniform.py", "import evomerge.recipe  # noqa\n", "search_spaces.uniform -> evomerge.recipe"),
        ("evomerge/study/study.py", "import torch  # noqa\n", "evomerge.study.study -> torch"),
        ("evomerge/search.py", "import ray  # noqa\n", "evomerge.search -> ray"),
    ],
)
def test_the_contracts_bite(tmp_path: Path, file: str, text: str, broken: str) -> None:
    for package in PACKAGES_OF_OURS:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as module:
        module.write(text)
    # The copy must win over the installed packages.
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()",
    ]
    done = subprocess.run([*command, "--no-cache"], capture_output=True, text=True, check=False, cwd=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert broken in output.replace("\n", " "), output
