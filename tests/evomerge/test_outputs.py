"""No command writes over a study, an input or a stranger's file."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from tests.toys import search_file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short finished search, with `search.yaml`, `models/` and `study/`."""
    folder = tmp_path_factory.mktemp("searched")
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, budget={"trials": 8})), encoding="utf-8")
    done = run("search", file)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def place(searched: Path, tmp_path: Path) -> Path:
    """Where things may be written, with what must not be written over."""
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "mergekit.yaml").write_text(MERGEKIT.format(models=searched / "models"))
    return tmp_path


MERGEKIT = """\
merge_method: linear
models:
  - {{model: {models}/a.safetensors, parameters: {{weight: 0.5}}}}
  - {{model: {models}/b.safetensors, parameters: {{weight: 0.5}}}}
"""

REPORT = ("report", "{study}", "--overwrite")
EXPORT = ("export", "{study}", "--recipe-only", "--overwrite")
AS_MERGEKIT = ("export", "{study}", "--format", "mergekit", "--overwrite")
PICK = ("pick", "{study}", "--prefer", "one=1", "--overwrite")
IMPORT = ("import", "{place}/mergekit.yaml", "--overwrite")
INIT = ("init", "{models}/base.safetensors", "{models}/a.safetensors", "-t", "{place}/thesis.txt", "--overwrite")
STATISTICS = ("statistics", "{models}/a.safetensors", "--data", "{place}/thesis.txt", "--overwrite")
SOUP = ("soup", "{models}/base.safetensors", "{models}/a.safetensors", "{models}/b.safetensors", "--data",
        "{place}/thesis.txt", "--overwrite")  # fmt: skip
EVERY = (REPORT, EXPORT, AS_MERGEKIT, PICK, IMPORT, INIT, STATISTICS, SOUP)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "ledger.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


TARGETS = ("models/base.safetensors", "study/ledger.jsonl")
MORE = ("models/a.safetensors", "study/ledger.lock", "study/ledger.torn-1", "study/search.yaml", "study/notes.txt")


@pytest.mark.parametrize(
    ("command", "target"),
    [(command, target) for command in EVERY for target in TARGETS] + [(EXPORT, target) for target in MORE],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
@pytest.mark.fault("F44", "outputs are inputs or files of a study", "refused by every command")
def test_no_command_writes_over_an_input_or_a_study(
    searched: Path, place: Path, command: tuple[str, ...], target: str
) -> None:
    names = {"study": searched / "study", "models": searched / "models", "place": place}
    (searched / "study" / "notes.txt").write_text("of mine")
    before = contents(searched)
    done = run(*(part.format(**names) for part in command), "-o", searched / target)
    assert done.exit_code in (2, 3), done.output
    assert "Choose another file" in done.stderr
    assert contents(searched) == before


def test_a_report_replaces_reports_and_nothing_else(searched: Path, place: Path) -> None:
    study = searched / "study"
    (study / "report.html").write_text("of an older version")
    assert run("report", study).exit_code == 0
    file = shutil.copy(study / "report.html", place / "report.html")
    assert run("report", study, "-o", file).exit_code == 0
    refused = run("report", study, "-o", place / "thesis.txt")
    assert (refused.exit_code, "exists" in refused.stderr) == (2, True)
    assert (place / "thesis.txt").read_text() == "years of work"
    assert run("report", study, "-o", place / "thesis.txt", "--overwrite").exit_code == 0
    assert (place / "thesis.txt").read_text().startswith("<!doctype html>")
    for odd, message in (
        ("/dev/null", "not a regular file"),
        (place, "a folder"),
        (place / "x" / "y", "an existing folder"),
    ):
        done = run("report", study, "-o", odd)
        assert (done.exit_code, message in done.stderr) == (2, True)


def test_a_task_is_an_input_too(searched: Path, place: Path) -> None:
    models = searched / "models"
    task = place / "thesis.txt"
    done = run("init", models / "base.safetensors", models / "a.safetensors", "-t", task, "--force", "-o", task)
    assert (done.exit_code, (place / "thesis.txt").read_text()) == (3, "years of work")


def test_a_link_to_a_ledger_is_the_ledger(searched: Path, place: Path) -> None:
    (place / "out.yaml").symlink_to(searched / "study" / "ledger.jsonl")
    before = contents(searched)
    assert run("export", searched / "study", "--recipe-only", "--overwrite", "-o", place / "out.yaml").exit_code == 2
    assert contents(searched) == before


def test_a_recipe_in_the_folder_of_the_run_can_be_written_again(searched: Path) -> None:
    file = searched / "study" / "recipe.yaml"
    command = ("export", searched / "study", "--recipe-only", "-o", file)
    assert run(*command).exit_code == 0
    assert run(*command).exit_code == 2
    assert run(*command, "--overwrite").exit_code == 0
    file.unlink()


def test_a_folder_with_files_of_a_user_is_not_replaced(searched: Path, place: Path) -> None:
    out = place / "out"
    command = ("export", searched / "study", "-o", out)
    assert run(*command).exit_code == 0
    assert run(*command, "--overwrite").exit_code == 0
    (out / "notes.md").write_text("years of work")
    (out / "figures").mkdir()
    before = contents(out)
    done = run(*command, "--overwrite")
    assert done.exit_code == 2
    assert "2 files ('figures', 'notes.md') that evomerge did not write" in done.stderr
    assert contents(out) == before


def test_a_folder_of_an_older_version_is_replaced_too(searched: Path, place: Path) -> None:
    out = place / "out"
    command = ("export", searched / "study", "-o", out, "--overwrite")
    assert run(*command).exit_code == 0
    manifest = json.loads((out / "evomerge.json").read_text())
    assert set(manifest.pop("files")) == {path.name for path in out.iterdir()}
    (out / "evomerge.json").write_text(json.dumps(manifest))
    assert run(*command).exit_code == 0
    (out / "model-00009-of-00009.safetensors").write_text("mine")
    (out / "evomerge.json").write_text(json.dumps(manifest))
    assert "model-00009" in run(*command).stderr


@pytest.mark.fault("F5", "a part of a killed export lies there", "it is said and removed")
def test_an_unfinished_export_is_said(searched: Path, place: Path) -> None:
    partial = place / ".out.evomerge-partial"
    partial.mkdir()
    (partial / "model.safetensors").write_text("half")
    done = run("export", searched / "study", "-o", place / "out")
    assert "found an unfinished export, restarting (1 weight file(s) of it removed)" in done.stdout
    assert not partial.exists()
    again = run("export", searched / "study", "-o", place / "out", "--overwrite")
    assert "found unfinished" not in again.stdout
