"""Yesterday's studies read as they did: the same numbers, sentences and recipes from the same ledgers."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evomerge.cli import app
from tests.golden.runs import (
    FOLDER,
    MADE_IN,
    READ_IN,
    RUNS,
    differences,
    frozen,
    ledger,
    normalized,
    read,
    restore,
    says,
    write,
)

#: See `reading`.
Reading = Callable[[str], tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """Read a run by its name, once: the folder that it was put into, and what the commands said of it there."""

    @cache
    def read_once(name: str) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp(name)
        return folder, read(name, folder)

    return read_once


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_reads_as_it_was_frozen(name: str, reading: Reading) -> None:
    folder, said = reading(name)
    changed = [
        f"{name}/{file}: {difference}"
        for file, data in said.items()
        for difference in differences(frozen(FOLDER / name / file), normalized(data, folder))
    ]
    assert not changed, "\n".join(["`python -m tests.golden.freeze` renews these, if they were meant:", *changed[:40]])


def test_a_predicted_front_is_the_same_wherever_it_is_read(reading: Reading) -> None:
    folder, said = reading("pareto_map")
    listed, drawn = said["pareto.json"]["predicted"], said["page.json.gz"]["predictions"]
    assert len(listed) > 100
    assert [(each["number"], each["nearest"], each["distance"], _means(each)) for each in listed] == [
        (each["number"], each["nearest"], each["distance"], _means(each)) for each in drawn
    ]
    picked = says("pick", folder / "pareto_map", "--predicted", listed[7]["number"])
    assert {key: picked[key] for key in listed[7]} == listed[7]


def _means(predicted: dict[str, Any]) -> dict[str, float]:
    return {task: value["mean"] for task, value in predicted["tasks"].items()}


def test_a_finished_run_is_resumed_without_scoring_and_its_models_are_recorded(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "models", tmp_path / "models")  # copies, whose time the ledger does not know
    run = restore("mean_keep", tmp_path)
    done = CliRunner().invoke(app, ["search", str(run / "search.yaml"), "--resume"])
    assert (done.exit_code, "is finished: the budget is spent (20 of 20 trials)" in done.stdout) == (0, True)
    added = (run / "ledger.jsonl").read_text(encoding="utf-8").splitlines()[len(ledger("mean_keep")) :]
    assert [json.loads(line)["kind"] for line in added] == ["opened", "inputs"]


def test_no_golden_file_names_a_folder_of_a_real_machine() -> None:
    place = re.compile(rb"[\"' \[](/[\w.-]+)")
    files = [path for name in RUNS for path in (FOLDER / name).iterdir()]
    texts = [gzip.decompress(raw) if path.suffix == ".gz" else raw for path in files for raw in [path.read_bytes()]]
    assert {found.decode() for text in texts for found in place.findall(text)} == {MADE_IN, READ_IN}


def test_what_changed_is_named_by_its_place(tmp_path: Path) -> None:
    old = {"points": [{"mean": 0.5, "n": 3, "on_front": True}], "label": "a", "predicted": [{"x": 0.5}], "gone": 1}
    assert not list(differences(old, old | {"points": [{"mean": 0.5 + 1e-13, "n": 3, "on_front": True}]}))
    new = {"points": [{"mean": 0.5 + 1e-6, "n": 3.0, "on_front": 1}], "label": "b", "predicted": [{"x": 0.5001}]}
    assert [difference.partition(": ")[0] for difference in differences(old, new)] == [
        "points[0].mean",
        "points[0].n",
        "points[0].on_front",
        "label",
        "gone",
    ]
    for name in ("data.json", "data.json.gz"):
        write(old, tmp_path / name)
        assert frozen(tmp_path / name) == old
