"""What a study began with stays: changed models and changed examples are refused, touched and copied ones are not."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Scores
from evomerge.cli import app
from evomerge.config import ConfigError, load_config
from evomerge.execution.serial import SerialExecutor
from evomerge.launch.launch import run
from evomerge.launch.pinned import PinnedExecutor
from evomerge.launch.plan import prepare
from evomerge.merging import pins
from evomerge.merging.models.checkpoint import CheckpointError
from evomerge.merging.output.materialize import materialize
from evomerge.merging.pins import InputChanged
from evomerge.recipe import Merge
from evomerge.report.status import status
from evomerge.run import Run
from evomerge.study import SEARCH_FILE, Study
from evomerge.study.lines import FILE, encode, read
from evomerge.trial import Outcome, Trial
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.folders import bare
from tests.toys import search_file

FUNCTION = f"{__name__}:meddled"
#: What `meddled` does to the models' folder, by the number of its calls.
MEDDLE: dict[int, Callable[[], object]] = {}
CALLS = [0]


def meddled(model: Any) -> float:
    """A score during which something happens to the models."""
    CALLS[0] += 1
    MEDDLE.pop(CALLS[0], lambda: None)()
    return float(next(iter(model.tensors.values())).sum())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    CALLS[0] = 0
    MEDDLE.clear()
    return tmp_path


def write(folder: Path, **changes: object) -> Path:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **{"budget": {"trials": 6}, **changes})), encoding="utf-8")
    return file


def search(folder: Path, trials: int = 6, *, resume: bool = False, say: Callable[[str], None] = lambda _: None) -> None:
    config = load_config(folder / "search.yaml").with_budget(trials=trials, hours=None)
    run(config, prepare(config), resume=resume, say=say)


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-4] ^= 1
    file.write_bytes(data)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.fault(
    "F19",
    "one bit of an expert is flipped between two sessions",
    "search, export and report end with 3 and name the file",
)
def test_a_bit_that_flips_between_two_sessions_ends_every_command_that_uses_the_models(folder: Path) -> None:
    search(folder)
    expert = folder / "models" / "a.safetensors"
    before = sha256(expert)
    flip_a_bit(expert)
    recorded = (folder / "study" / FILE).read_bytes()
    for command in (
        ("check", folder / "search.yaml"),
        ("search", folder / "search.yaml", "--resume", "--trials", 8),
        ("export", folder / "study", "-o", folder / "out"),
        ("pick", folder / "study", "--prefer", "one=1", "-o", folder / "recipe.yaml"),
    ):
        done = cli(*command)
        assert done.exit_code == 3, (command, done.output)
        for said in (str(expert), before, sha256(expert)):
            assert said in done.stderr
    assert (folder / "study" / FILE).read_bytes() == recorded
    report = cli("report", folder / "study", "--json")
    assert str(expert) in json.loads(report.stdout)["note"]


def test_a_touched_and_a_copied_file_is_the_same_file(folder: Path) -> None:
    search(folder)
    expert = folder / "models" / "a.safetensors"
    os.utime(expert, (0, 0))
    search(folder, 8, resume=True)
    other = shutil.copy(expert, folder / "copy")
    other.replace(expert)
    search(folder, 10, resume=True)
    inputs = Study.read(folder / "study").inputs
    assert inputs is not None
    assert inputs["a/path/a.safetensors"]["status"][3] == expert.stat().st_ino, "the next look asks for no hash"


@pytest.mark.parametrize("meddle", ["truncated", "written", "replaced", "gone"])
@pytest.mark.fault("F21", "a file is changed while candidates are scored", "no outcome is recorded after it; paused")
def test_what_is_computed_from_a_changed_file_is_never_told(folder: Path, meddle: str) -> None:
    write(folder, tasks={"sum": {"evaluator": "callable", "function": FUNCTION}})
    expert = folder / "models" / "a.safetensors"
    other = shutil.copy(folder / "models" / "b.safetensors", folder / "other")
    MEDDLE[5] = {
        "truncated": lambda: os.truncate(expert, 1000),
        "written": lambda: flip_a_bit(expert),
        "replaced": lambda: other.replace(expert),
        "gone": expert.unlink,
    }[meddle]
    with pytest.raises(InputChanged, match=re.escape(str(expert))):
        search(folder, 20)
    study = Study.read(folder / "study")
    assert (len(study.told), len(study.pending)) == (3, 1), "the canary is two calls and one trial"
    assert str(expert) in str(status(Run.of(study))["paused_because"])


@pytest.mark.fault("F21", "a file is cut short while it is merged", "nothing is written")
def test_a_merge_of_a_file_that_is_cut_short_meanwhile_is_not_written(folder: Path) -> None:
    recipe = load_config(folder / "search.yaml").recipe()
    expert = folder / "models" / "a.safetensors"
    assert expert.stat().st_size < os.sysconf("SC_PAGE_SIZE"), "so that the rest is read as zeros and no signal comes"
    merge = Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.5, 0.5]])}))
    with pytest.raises(CheckpointError, match=r"a\.safetensors changed while it was being merged"):
        materialize(merge, folder / "out", progress=lambda _done, _total: os.truncate(expert, 1000))
    assert not (folder / "out").exists()


def test_a_worker_compares_its_files_before_it_reads_them(folder: Path) -> None:
    recipe = load_config(folder / "search.yaml").recipe()
    found = pins.take(pins.input_files(recipe))
    pins.check_worker(pins.input_files(recipe), found)
    os.utime(folder / "models" / "a.safetensors", (0, 0))
    spec = replace(prepare(load_config(folder / "search.yaml")).spec, pins=found)
    spec()
    flip_a_bit(folder / "models" / "a.safetensors")
    with pytest.raises(InputChanged, match=r"a\.safetensors changed"):
        spec()


def test_large_files_are_hashed_while_the_search_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "AT_ONCE", 0)
    search(folder)
    records = read(folder / "study" / FILE).records
    assert {pin["sha256"] for pin in records[0].fields["inputs"].values()} == {None}
    inputs = Study.read(folder / "study").inputs or {}
    models = folder / "models"
    assert {pin["sha256"] for pin in inputs.values()} == {sha256(file) for file in models.iterdir()}


def test_without_a_hash_samples_decide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "AT_ONCE", 0)
    files = pins.input_files(load_config(folder / "search.yaml").recipe())
    found = pins.take(files)
    os.utime(folder / "models" / "a.safetensors", (0, 0))
    pins.compare(files, found)
    flip_a_bit(folder / "models" / "a.safetensors")
    with pytest.raises(InputChanged, match="changed: samples"):
        pins.compare(files, found)


def test_configuration_tokenizer_and_adapter_are_inputs_too(tmp_path: Path) -> None:
    base = bare(tmp_path / "base", {"a": torch.ones(1)})
    (base / "config.json").write_text("{}")
    (base / "tokenizer.json").write_text("{}")
    (base / "README.md").write_text("no input")
    names = pins._files(base)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names.keys()
    assert "README.md" not in names
    found = pins.take(names)
    (base / "README.md").write_text("changed")
    pins.compare(pins._files(base), found)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InputChanged, match=r"chat_template\.jinja was added"):
        pins.compare(pins._files(base), found)
    (base / "chat_template.jinja").unlink()
    (base / "tokenizer.json").unlink()
    with pytest.raises(InputChanged, match=r"tokenizer\.json has disappeared"):
        pins.compare(pins._files(base), found)


def test_a_study_of_a_version_without_pins_gets_them_when_it_goes_on(folder: Path) -> None:
    search(folder)
    ledger = folder / "study" / FILE
    first, rest = ledger.read_bytes().split(b"\n", 1)
    data = {key: value for key, value in json.loads(first)["data"].items() if key != "inputs"}
    ledger.write_bytes(encode(0, 1, "created", data) + rest)
    assert Study.read(folder / "study").inputs is None
    assert cli("export", folder / "study", "-o", folder / "out").exit_code == 0
    said: list[str] = []
    search(folder, 8, resume=True, say=said.append)
    assert [line for line in said if "recorded now" in line]
    assert Study.read(folder / "study").inputs is not None


def test_examples_do_not_change_between_two_sessions(folder: Path) -> None:
    examples = folder / "examples.txt"
    examples.write_text("".join(f"e{n}\n" for n in range(60)))
    function = f"{__name__}:by_length"
    write(folder, tasks={"words": {"evaluator": "callable", "function": function, "examples": str(examples)}})
    search(folder)
    search(folder, 7, resume=True)
    examples.write_text("".join(f"e{n}\n" for n in range(20, 80)))
    for command in (("check",), ("search", "--resume", "--trials", "8")):
        done = cli(command[0], folder / "search.yaml", *command[1:])
        assert done.exit_code == 2
        counts = re.search(r"it had (\d+), now there are (\d+), (\d+) of them the same", done.stderr)
        assert counts
        assert int(counts[3]) < min(int(counts[1]), int(counts[2]))
        assert "tasks.words" in done.stderr
    examples.write_text("".join(f"e{n}\n" for n in reversed(range(60))))
    with pytest.raises(ConfigError, match="in another order"):
        search(folder, 8, resume=True)


def test_examples_do_not_change_while_a_search_runs(folder: Path) -> None:
    study = Study.create(folder / "study", {}, {})
    recipe = load_config(folder / "search.yaml").recipe()
    ids = ("a", "b")
    executor = PinnedExecutor(OtherExamples(), study, recipe, {}, {("task", "search"): ids, ("task", "select"): ("c",)})
    executor.submit(Trial(0, None))
    assert executor.next_outcome() is not None
    executor.submit(Trial(1, None))
    with pytest.raises(InputChanged, match="it had 2, now there are 1, 1 of them the same"):
        executor.next_outcome()
    study.close()


class OtherExamples(SerialExecutor):
    """An executor whose worker reads other examples from its second trial on, as one that was started again may."""

    def __init__(self) -> None:
        super().__init__(lambda: self)

    def run(self, trial: Trial) -> Outcome:
        ids = ("a", "b") if trial.number == 0 else ("a",)
        return Outcome(trial.number, {"task": Scores(ids, np.zeros(len(ids)))})


def by_length(model: Any, ids: list[str]) -> list[float]:
    """A score per example, another one for each model."""
    total = float(next(iter(model.tensors.values())).sum())
    return [total + len(name) for name in ids]


KILLED = """
import os, signal, sys
from pathlib import Path
from evomerge.study import Study

folder, number = Path(sys.argv[1]), 0
while True:
    number += 1
    child = os.fork()
    if child == 0:
        left = number
        def counted(call):
            def one(*arguments):
                global left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)
            return one
        os.fsync, os.write, os.open = counted(os.fsync), counted(os.write), counted(os.open)
        Path.replace, Path.rename = counted(Path.replace), counted(Path.rename)
        Study.create(folder / str(number), {"a": 1}, {}, search_file="seed: 1").close()
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    place = folder / str(number)
    print(number, (place / "ledger.jsonl").exists(), (place / "search.yaml").exists())
    if not os.WIFSIGNALED(ended):
        break
    if not (place / "ledger.jsonl").exists():
        Study.create(place, {"a": 2}, {}, search_file="seed: 2").close()
        assert (place / "search.yaml").read_text() == "seed: 2"
    assert sorted(p.name for p in place.iterdir() if "part" in p.name) == []
"""


@pytest.mark.fault("F1", "the creation is ended at each of its writes", "no study, or one that is complete")
def test_a_study_is_never_without_its_search_file_whenever_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) > 10
    assert [row for row in rows if row[1] == "True" and row[2] == "False"] == []
    assert {(row[1], row[2]) for row in rows} == {("False", "False"), ("False", "True"), ("True", "True")}


def test_a_lost_search_file_comes_back_from_the_ledger(folder: Path) -> None:
    search(folder)
    copy = folder / "study" / SEARCH_FILE
    copy.unlink()
    assert load_config(copy).identity() == load_config(folder / "search.yaml").identity()
    assert cli("export", folder / "study", "-o", folder / "out").exit_code == 0
    assert cli("report", folder / "study").exit_code == 0
    # The ledger does not say how trials are executed; the default is Ray, which takes twenty seconds to start.
    found = load_config(copy).model_copy(update={"executor": "serial"}).with_budget(trials=7, hours=None)
    run(found, prepare(found), resume=True)
    assert load_config(copy).identity() == load_config(folder / "search.yaml").identity()
    assert copy.is_file()


def test_a_broken_ledger_is_told_before_models_are_read(folder: Path) -> None:
    search(folder)
    lines = (folder / "study" / FILE).read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"', b"'", 1)
    (folder / "study" / FILE).write_bytes(b"".join(lines))
    for model in (folder / "models").iterdir():
        model.write_bytes(b"")
    done = cli("search", folder / "search.yaml", "--resume")
    assert (done.exit_code, "line 3 is damaged" in done.stderr) == (2, True)
