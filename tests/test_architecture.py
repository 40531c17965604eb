"""The architecture is a test: straight imports, independent plug-ins, light start-up, contracts that bite."""

import ast
import importlib
import importlib.util
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
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


def modules_in_cycles() -> list[str]:
    """Modules whose imports lead back to them; importing a module runs the packages that it is in, too."""
    graph = grimp.build_graph(*PACKAGES_OF_OURS, exclude_type_checking_imports=True, cache_dir=None)
    needed = {}
    for module in graph.modules:
        names = {module, *graph.find_modules_directly_imported_by(module)}
        needed[module] = {place for name in names for place in (name, *_packages_of(name))} - {module}
    found = []
    for module in sorted(needed):
        reached: set[str] = set()
        waiting = list(needed[module])
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += needed[name]
        if module in reached:
            found.append(module)
    return found


def _packages_of(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def first_imports(names: list[str]) -> subprocess.CompletedProcess[str]:
    """Import each of the modules before any other of ours, in a fork of one process that has their third parties."""
    code = f"""
import gc, importlib, os, sys
for name in {names!r}:
    importlib.import_module(name)
for name in [name for name in sys.modules if name.partition(".")[0] in {PACKAGES_OF_OURS!r}]:
    del sys.modules[name]
gc.collect()
gc.freeze()
gc.disable()  # a look at every object would copy its page, in every fork
for name in {names!r}:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{{name}} cannot be imported first")
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("module", modules())
def test_every_module_can_be_imported(module: str) -> None:
    if module.startswith("evomerge.merging.fused.cuda_"):
        pytest.importorskip("triton")
    importlib.import_module(module)


def test_every_module_in_a_cycle_can_be_imported_first() -> None:
    """A module that works only after another one was imported hides a cycle; the others have no order to depend on."""
    names = modules_in_cycles()
    assert {"evomerge.cli.application", "evomerge.study.study"} <= set(names), "a package and what it re-exports"
    done = first_imports(names)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["evomerge", "evomerge.cli"])
def test_start_up_loads_nothing_heavy(module: str) -> None:
    loaded = python(f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize("command", ["status", "pareto", "pick", "compare"])
def test_commands_on_a_study_load_neither_torch_nor_scipy(command: str) -> None:
    names = ("torch", "transformers", "scipy", "optuna", "lm_eval", "ray")
    code = f"import sys, evomerge.commands.{command}; print([name for name in {names!r} if name in sys.modules])"
    assert python(code) == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "plan"])
def test_commands_on_a_search_file_load_networks_only_where_models_have_one(command: str) -> None:
    names = ("torch._dynamo", "transformers.modeling_layers", "transformers.core_model_loading", "ray", "optuna")
    code = f"import sys, evomerge.commands.{command}; print([name for name in {names!r} if name in sys.modules])"
    assert python(code) == "[]"


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
        ("evomerge/trial.py", "import evomerge.loop  # noqa\n", "evomerge.trial -> evomerge.loop"),
        ("search_spaces/uniform.py", "import evomerge.recipe  # noqa\n", "search_spaces.uniform -> evomerge.recipe"),
        ("evomerge/study/study.py", "import torch  # noqa\n", "evomerge.study.study -> torch"),
        ("evomerge/loop.py", "import ray  # noqa\n", "evomerge.loop -> ray"),
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


def test_a_wheel_has_every_package() -> None:
    """Wheels list their packages one by one, since two of them are elsewhere in the repository."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {file.parent for package in PACKAGES_OF_OURS for file in (ROOT / package).rglob("__init__.py")}
    named = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    inside = {name if name.startswith("evomerge") else f"evomerge._packages.{name}" for name in named}
    assert set(listed) == inside | {"evomerge.tiny_models"}
