"""`evomerge pareto`, `pick` and `export` on a study that was really run: what is shown is what is written."""

import json
import os
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pexpect
import pytest
from pexpect.fdpexpect import fdspawn
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import Bench, BenchSpec
from evomerge.cli import app
from evomerge.config import load_config
from evomerge.recipe.file import read_merge
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Trial
from tests.evomerge.forks import Fork
from tests.toys import search_file, write_toys
from tests.waiting import CEILING


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pick")
    settings = search_file(folder, space="uniform", objective="pareto", optimizer="sobol", budget={"trials": 40})
    settings["experts"] = {name: str(path) for name, path in write_toys(folder / "models", 3)[1].items()}
    (folder / "search.yaml").write_text(strict_yaml.dump(settings))
    done = run("search", folder / "search.yaml")
    assert done.exit_code == 0, done.output
    return folder / "study"


def picked(study: Path, *arguments: object) -> dict:
    done = run("pick", study, "--json", *arguments)
    assert done.exit_code == 0, done.output
    data: dict = json.loads(done.stdout)
    return data


def test_the_written_recipe_scores_what_was_shown(study: Path, tmp_path: Path) -> None:
    for split in ("search", "select"):
        file = tmp_path / f"{split}.yaml"
        shown = picked(study, "--split", split, "--max", "one", "--keep", "two>=50%", "-o", file)
        assert shown["recipe"] == str(file)
        config = load_config(study / "search.yaml")
        bench = Bench(BenchSpec(config.recipe(), config.space, dict(config.tasks), config.split.shares, "cpu"))
        outcome = bench.run(Trial(0, None, merge=read_merge(file), split=split))
        assert {task: value["mean"] for task, value in shown["tasks"].items()} == {
            task: scores.mean for task, scores in outcome.scores.items()
        }


def test_export_takes_the_same_wishes_and_writes_the_same_merge(study: Path, tmp_path: Path) -> None:
    wish = ("--prefer", "one=1,two=3", "--keep", "one>=-90%")
    shown = picked(study, *wish, "-o", tmp_path / "recipe.yaml")
    exported = run("export", study, *wish, "-o", tmp_path / "out", "--json")
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)["label"] == shown["label"]
    merged = run("merge", tmp_path / "recipe.yaml", "-o", tmp_path / "again")
    assert merged.exit_code == 0, merged.output
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == second
    card = json.loads((tmp_path / "out" / "evomerge.json").read_text())["scores"]
    assert card["choice"] == shown["sentence"]
    assert card[f"{shown['label']}, all examples"]["split"] == "all"
    assert card[f"{shown['label']}, select"]["one"] == shown["tasks"]["one"]["mean"]
    assert shown["sentence"] in (tmp_path / "out" / "README.md").read_text()


def test_positions_along_the_front_are_written_as_their_shares_say(study: Path, tmp_path: Path) -> None:
    steps = picked(study, "--split", "search", "--knob-steps", 9, "-o", tmp_path / "knob")["steps"]
    assert {step["evaluated"] for step in steps} == {True, False}
    opened, files = Run(study), sorted((tmp_path / "knob").iterdir())
    assert [step["recipe"] for step in steps] == [str(file) for file in files]
    for step, file in zip(steps, files, strict=True):
        recipes = [opened.recipe(each["number"]).table.values["weight"] for each in step["neighbors"]]
        wanted = sum(each["share"] * recipe for each, recipe in zip(step["neighbors"], recipes, strict=True))
        assert read_merge(file).table.values["weight"] == pytest.approx(wanted)
    before = files[0].read_bytes()
    again = run("pick", study, "--split", "search", "--knob-steps", 9, "-o", tmp_path / "knob")
    assert again.exit_code == 2
    assert "exists. Choose another file, or --overwrite" in str(again.exception) + again.output
    assert files[0].read_bytes() == before
    middle = next(step for step in steps if not step["evaluated"])
    wish = ("--split", "search", "--knob", middle["t"])
    assert picked(study, *wish, "-o", tmp_path / "one.yaml")["neighbors"] == middle["neighbors"]
    assert (tmp_path / "one.yaml").read_text() == Path(middle["recipe"]).read_text().replace("../../", "../")
    exported = run("export", study, *wish, "-o", tmp_path / "out")
    assert exported.exit_code == 0, exported.output
    assert run("merge", middle["recipe"], "-o", tmp_path / "again").exit_code == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == second
    assert "no merge was scored" in (tmp_path / "out" / "README.md").read_text()


def test_without_a_terminal_it_is_what_the_study_prefers(study: Path) -> None:
    shown = picked(study)
    selected = next(data for kind, data in Study.read(study).events if kind == "selected")
    assert shown["label"] == selected["label"]
    text = run("pick", study)
    assert text.stdout.startswith(f"On the select split, {shown['label']} is the study's preferred merge.")


def test_what_cannot_be_kept_is_an_exit_code(study: Path, tmp_path: Path) -> None:
    wish = ("--max", "one", "--keep", "two>=1")
    missed = run("pick", study, *wish, "-o", tmp_path / "r.yaml")
    assert missed.exit_code == 2
    assert re.search(r"No merge meets two>=1 on the select split; the nearest is \S+\.", missed.stdout)
    assert "violated by" in missed.stdout
    assert "--nearest" in missed.stderr
    assert not (tmp_path / "r.yaml").exists()
    assert run("export", study, *wish, "-o", tmp_path / "out").exit_code == 2
    assert not (tmp_path / "out").exists()
    near = run("pick", study, *wish, "--nearest", "-o", tmp_path / "r.yaml", "--json")
    assert near.exit_code == 0
    assert json.loads(near.stdout)["met"] is False
    assert read_merge(tmp_path / "r.yaml")
    assert run("export", study, *wish, "--nearest", "--recipe-only", "-o", tmp_path / "same.yaml").exit_code == 0
    assert (tmp_path / "same.yaml").read_text() == (tmp_path / "r.yaml").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("pick", "--max", "tow"), "Did you mean 'two'?"),
        (("pick", "--prefer", "one=1", "--knee"), "Choose one of"),
        (("pick", "--split", "test"), "--split is one of search, select, report"),
        (("pareto", "--split", "test"), "--split is one of search, select, report"),
        (
            ("export", "-o", "x", "--best", "--knee"),
            "give only one of --best, --trial N, --predicted N, --knob T, or a choice by",
        ),
        (("export", "-o", "x", "--trial", "3", "--max", "one"), "leave out --prefer"),
        (("export", "-o", "x", "--split", "search"), "--split and --nearest require"),
        (("export", "-o", "x", "--knob", "0.5", "--best"), "give only one of --best"),
        (("pick", "--knob", "0.5", "--knob-steps", "3"), "give one of them"),
        (("pick", "--between", "one,two"), "--between requires --knob"),
        (("pick", "--knob-steps", "1"), "greater than or equal to 2"),
    ],
)
def test_what_is_wrong_is_said_at_once(study: Path, command: tuple[str, ...], said: str) -> None:
    done = run(command[0], study, *command[1:])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_the_front_and_its_picture(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    done = run("pareto", copy, "--json", "--plot")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert Path(data["picture"]).is_file()
    assert data["hypervolume"]["report"]["of_all"]["value"] > data["hypervolume"]["report"]["of_models"]["value"]
    ledger = (copy / "ledger.jsonl").read_bytes()
    text = run("pareto", copy, "--split", "report")
    assert "of the report split" in text.stdout
    assert (copy / "ledger.jsonl").read_bytes() == ledger  # looking at what has been reported decides nothing


def test_a_running_study_has_a_front(study: Path, tmp_path: Path) -> None:
    lines = (study / "ledger.jsonl").read_text().splitlines(keepends=True)
    asked = [n for n, line in enumerate(lines) if '"asked"' in line]
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "ledger.jsonl").write_text("".join(lines[: asked[20] + 1]))  # without its search.yaml
    data = json.loads(run("pareto", tmp_path / "half", "--json").stdout)
    assert data["pending"] == 1
    assert data["points"]
    assert picked(tmp_path / "half")["split"] == "search"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "ledger.jsonl").write_text("".join(lines[: asked[0] + 1]))
    assert "Nothing is scored" in run("pareto", tmp_path / "new").stdout
    assert run("pick", tmp_path / "new").exit_code == 2


@contextmanager
def on_a_terminal(*arguments: object, columns: int) -> Iterator[tuple[Fork, fdspawn]]:
    """The command line on a terminal: the process and what a person sees and types."""
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (60, columns))
    with Fork(*arguments, terminal=terminal, environment={"TERM": "xterm"}) as process:
        os.close(terminal)
        person = fdspawn(controller, encoding="utf-8", timeout=CEILING)
        yield process, person
        process.kill()
        person.close()


@pytest.fixture
def asked(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Fork, fdspawn]]:
    """`evomerge pick` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with on_a_terminal("pick", study, columns=100) as started:
        yield started


def test_a_terminal_is_asked(study: Path, tmp_path: Path, asked: tuple[Fork, fdspawn]) -> None:
    process, child = asked
    child.expect("Non-dominated merges on the select split:")
    child.expect("or q: ")
    child.sendline("max oen")
    child.expect("Did you mean 'one'")
    child.expect("or q: ")
    child.sendline("max one")
    child.expect(r"On the select split, (\S+) is the best on one\.")
    label = child.match.group(1)
    child.expect("y or n: ")
    child.sendline("y")
    child.expect(r"File \[recipe.yaml\]: ")
    child.sendline("")
    child.expect("Wrote the recipe recipe.yaml")
    child.expect(pexpect.EOF)
    assert process.wait() == 0
    wanted = picked(study, "--max", "one", "-o", tmp_path / "wanted.yaml")
    assert label.endswith(wanted["label"])
    assert (tmp_path / "recipe.yaml").read_text() == (tmp_path / "wanted.yaml").read_text()


@pytest.mark.parametrize("answers", [(), ("max one", "y")])
def test_ctrl_c_at_a_question_ends_it_as_everywhere_else(
    tmp_path: Path, asked: tuple[Fork, fdspawn], answers: tuple[str, ...]
) -> None:
    process, child = asked
    for answer in answers:
        child.expect(r"or [qn]: ")
        child.sendline(answer)
    child.expect(r"or q: |File \[recipe.yaml\]: ")
    # readline loses one that comes between its prompt and its waiting; a person types it again.
    for _ in range(int(CEILING / 3)):
        child.send("\x03")
        if child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=3) == 0:
            break
    assert process.wait() == 130
    assert "Traceback" not in child.before
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_terminal_of_twenty_columns_and_one_without_unicode(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["-m", "evomerge.cli", "pareto", str(study)]
    ascii_ = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, *command], capture_output=True, env=ascii_, check=True)
    assert done.stdout.isascii()
    monkeypatch.delenv("COLUMNS", raising=False)
    with on_a_terminal("pareto", study, columns=20) as (process, child):
        child.expect(pexpect.EOF)
        assert process.wait() == 0
    assert "* trial:" in child.before
    assert [line for line in child.before.splitlines() if len(line) > 20] == []


@pytest.fixture(scope="module")
def with_predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by an optimizer that predicts a front."""
    folder = tmp_path_factory.mktemp("predicted")
    settings = search_file(folder, space="uniform", objective="pareto", optimizer="map", budget={"trials": 20})
    (folder / "search.yaml").write_text(strict_yaml.dump(settings))
    done = run("search", folder / "search.yaml")
    assert done.exit_code == 0, done.output
    return folder / "study"


def test_a_predicted_point_is_written_as_its_coefficients_say(with_predictions: Path, tmp_path: Path) -> None:
    listed = json.loads(run("pareto", with_predictions, "--json").stdout)["predicted"]
    wanted = next(point for point in listed if not point["beaten"])
    shown = picked(with_predictions, "--predicted", wanted["number"], "-o", tmp_path / "recipe.yaml")
    assert shown["tasks"] == wanted["tasks"]
    assert "was not measured" in shown["sentence"]
    assert "at least as good" not in shown["sentence"]
    for beaten in [point["number"] for point in listed if point["beaten"]][:1]:
        assert "at least as good" in picked(with_predictions, "--predicted", beaten)["sentence"]
    config = load_config(with_predictions / "search.yaml")
    bench = Bench(BenchSpec(config.recipe(), config.space, dict(config.tasks), config.split.shares, "cpu"))
    outcome = bench.run(Trial(0, None, merge=read_merge(tmp_path / "recipe.yaml"), split="search"))
    at_x = bench.run(Trial(1, np.array(wanted["x"]), seed=config.seed))
    assert {task: scores.mean for task, scores in outcome.scores.items()} == {
        task: scores.mean for task, scores in at_x.scores.items()
    }
    for task, scores in outcome.scores.items():
        expected = shown["tasks"][task]
        assert scores.mean == pytest.approx(expected["mean"], abs=4 * expected["standard_error"] + 0.02)
    exported = run("export", with_predictions, "--predicted", wanted["number"], "-o", tmp_path / "out")
    assert exported.exit_code == 0, exported.output
    assert run("merge", tmp_path / "recipe.yaml", "-o", tmp_path / "again").exit_code == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == second
    assert "was not measured" in (tmp_path / "out" / "README.md").read_text()


def test_predicted_points_that_are_not_there(study: Path, with_predictions: Path) -> None:
    beyond = run("pick", with_predictions, "--predicted", 10_000)
    assert beyond.exit_code == 2
    assert re.search(r"no predicted point 10000: valid numbers are 1 to \d+", str(beyond.exception) + beyond.output)
    none = run("pick", study, "--predicted", 1)
    assert "this study's optimizer predicts none" in str(none.exception) + none.output
    both = run("export", with_predictions, "--predicted", 1, "--knee", "-o", "x")
    assert "--predicted N names the point" in str(both.exception) + both.output
