"""A user's own Python beside the search file: found here, in workers and later; recipes import none unasked."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evaluators import _own_code
from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.config import load_config
from evomerge.recipe.file import RecipeError, read_merge
from tests.toys import search_file

SCORE = "def score(model):\n    return sum(float(t.double().abs().mean()) for t in model.tensors.values())\n"
METHOD = """\
from typing import Annotated

from evomerge.merging.method import Bounds, PerInput, merge_method


@merge_method(operates_on="weights", reference="https://example.org")
def own(weights, *, weight: Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]):
    return sum(w * t for w, t in zip(weight, weights))
"""
ROOT = Path(__file__).parents[2]


def write(folder: Path, module: str, text: str = SCORE, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(text)
    tasks = {"mine": {"evaluator": "callable", "function": f"{module}:score"}}
    settings = {"tasks": tasks, "budget": {"trials": 6}, "optimizer": "random", "executor": "serial", "study": "study"}
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump({**search_file(folder), **settings, **changes}))
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_callable_beside_the_search_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "here", "lab_beside")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for command in ("check", "search"):
        done = run(command, file)
        assert done.exit_code == 0, done.output
    kept = tmp_path / "here" / "study" / "search.yaml"
    assert strict_yaml.load(kept.read_text()).data["code"][0] == str(tmp_path / "here")
    assert "code" not in load_config(file).identity(), "the folder may move between sessions"
    # As in a process that knows of the folder only what the study says.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path / "here")])
    monkeypatch.setattr(_own_code, "_folders", [])
    del sys.modules["lab_beside"]
    again = run("search", kept, "--resume", "--trials", "8")
    assert again.exit_code == 0, again.output


@pytest.mark.slow
def test_ray_workers_find_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "here", "lab_of_workers", executor="ray", workers=1)
    monkeypatch.chdir(tmp_path)
    done = run("search", file)
    assert done.exit_code == 0, done.output


def test_other_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lab", "lab_in_a_folder")
    file = write(
        tmp_path / "here", "unused", tasks={"mine": {"evaluator": "callable", "function": "lab_in_a_folder:score"}}
    )
    monkeypatch.chdir(tmp_path)
    refused = run("check", file)
    assert refused.exit_code == 2
    for text in ("tasks.mine", "No module named 'lab_in_a_folder' in ", str(tmp_path / "here"), "`code: FOLDER`"):
        assert text in refused.output
    file.write_text(file.read_text() + "code: ../lab\n")
    assert run("check", file).exit_code == 0


def test_the_current_folder_is_looked_in_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "here", "lab_current")
    (tmp_path / "here" / "lab_current.py").rename(tmp_path / "lab_current.py")
    monkeypatch.chdir(tmp_path)
    assert run("check", file).exit_code == 0


def test_a_recipe_imports_no_module_unless_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab_method.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{METHOD}")
    models = search_file(tmp_path)
    recipe = {"evomerge": 1, "base": models["base"], "inputs": models["experts"], "method": "lab_method:own"}
    (tmp_path / "recipe.yaml").write_text(strict_yaml.dump({**recipe, "coefficients": {"weight": 0.5}}))
    for command in ("merge", "statistics --data a=x --through"):
        refused = run(*command.split(), tmp_path / "recipe.yaml", "-o", tmp_path / "out")
        assert refused.exit_code == 2, refused.output
        assert "recipe.yaml:4: the method 'lab_method:own' is an external module" in refused.output
    with pytest.raises(RecipeError, match="--allow-code"):
        read_merge(tmp_path / "recipe.yaml")
    assert not (tmp_path / "ran").exists()
    done = run("merge", tmp_path / "recipe.yaml", "-o", tmp_path / "out", "--allow-code")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "ran").exists()
