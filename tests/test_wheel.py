"""The wheel: one name in site-packages, and commands that work outside of a checkout beside other distributions."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge import __version__
from evomerge.own_packages import PACKAGES
from tests.toys import search_file

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")  # the build leaves files beside what it reads
    for name in ("evomerge", *PACKAGES):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "experiments/tiny_models", source / "experiments/tiny_models")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(source / "dist"), str(source)], check=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment: the wheel, another `evaluators`, and what the wheel needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    # Python reads no .pth files in a folder that one names, so an editable evomerge there is not seen.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (packages / "evaluators").mkdir()
    (packages / "evaluators/__init__.py").write_text("OTHER = True\n")
    return Path(sysconfig.get_path("scripts", "venv", vars=paths))


def run(program: Path, *arguments: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_one_top_level_name_and_every_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names} == {"evomerge", f"evomerge-{__version__}.dist-info"}
    assert {f"evomerge/_packages/{name}/py.typed" for name in PACKAGES} <= names
    assert {"evomerge/tiny_models/search.yaml", "evomerge/tiny_models/prepare.py"} <= names
    for folder, place in [("evomerge", ""), *((name, "evomerge/_packages/") for name in PACKAGES)]:
        for module in (ROOT / folder).rglob("*.py"):
            assert f"{place}{module.relative_to(ROOT).as_posix()}" in names


@pytest.mark.slow
def test_commands_work_outside_of_the_checkout_beside_another_evaluators(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "evomerge", "--version", cwd=tmp_path) == f"evomerge {__version__}\n"
    listed = run(installed / "python", "-m", "evomerge.cli", "list", cwd=tmp_path)
    assert "multiple_choice" in listed
    assert "layerwise" in listed
    file = tmp_path / "search.yaml"
    changes = {"executor": "ray", "workers": 2, "budget": {"trials": 12}}
    file.write_text(strict_yaml.dump(search_file(tmp_path, **changes)), encoding="utf-8")
    run(installed / "evomerge", "check", file, cwd=tmp_path)
    run(installed / "evomerge", "search", file, cwd=tmp_path)
    assert "12" in run(installed / "evomerge", "status", tmp_path / "study", cwd=tmp_path)


@pytest.mark.slow
def test_each_process_has_its_own_evaluators(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "search_spaces.py").write_text("raise ImportError('not this one')\n")
    ours = "import evomerge, evaluators.base, search_spaces.base; print(evaluators.__file__)"
    assert run(installed / "python", "-c", ours, cwd=tmp_path).endswith("evomerge/_packages/evaluators/__init__.py\n")
    assert run(installed / "python", "-c", "import evaluators; print(evaluators.OTHER)", cwd=tmp_path) == "True\n"
    both = "import evaluators\ntry: import evomerge\nexcept ImportError as error: print(error)"
    assert "this process has imported another one" in run(installed / "python", "-c", both, cwd=tmp_path)


@pytest.mark.slow
def test_the_demo_runs_to_its_end_and_once_more_without_training(installed: Path, tmp_path: Path) -> None:
    assert "step 125 of 125" in run(installed / "evomerge", "demo", cwd=tmp_path)
    for made in ("run/report.html", "merged/config.json", "search.yaml"):
        assert (tmp_path / "evomerge-demo" / made).is_file()
    assert "base: up to date" in run(installed / "evomerge", "demo", cwd=tmp_path)


@pytest.mark.slow
def test_from_an_empty_folder_to_a_report_with_all_that_the_wheel_asks_for(wheel: Path, tmp_path: Path) -> None:
    reachable = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "cmaes"]
    if subprocess.run(reachable, capture_output=True, check=False).returncode:
        pytest.skip("no registry of packages can be reached")
    venv.create(tmp_path / "environment", with_pip=True)
    paths = {"base": str(tmp_path / "environment"), "platbase": str(tmp_path / "environment")}
    programs = Path(sysconfig.get_path("scripts", "venv", vars=paths))
    (folder := tmp_path / "empty").mkdir()
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    assert "Done: see" in run(programs / "evomerge", "demo", cwd=folder)
    report = (folder / "evomerge-demo/run/report.html").read_text(encoding="utf-8")
    assert "held-out examples" in report
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["'](?!data:|#)""", report), "it opens offline"
