"""The main job, whole: trained models, lm-eval tasks, Ray workers that die, a winner that plain transformers loads."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.budget import evaluations
from evomerge.cli import app
from evomerge.study import Study
from tests.conftest import TinyModels
from tests.waiting import CEILING

#: A fixture here trains models and runs a whole search and an export.
pytestmark = pytest.mark.timeout(3600)

LOAD_WITHOUT_US = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path=sys.argv[2], include_defaults=False)
arguments = {"pretrained": sys.argv[1], "dtype": "float32", "softmax_dtype": "float32"}
result = lm_eval.simple_evaluate(
    model="hf", model_args=arguments, tasks=["count", "sort"], task_manager=manager, bootstrap_iters=0,
    device="cpu", batch_size=32, fewshot_as_multiturn=False,
)
assert "evomerge" not in sys.modules
numbers = {t: {k: v for k, v in row.items() if isinstance(v, float)} for t, row in result["results"].items()}
print(json.dumps(numbers))
"""


def write_search(folder: Path, tiny: TinyModels) -> Path:
    settings: dict[str, object] = {
        "base": str(tiny.base),
        "experts": {name: str(path) for name, path in tiny.experts.items()},
        "dtype": "float32",
        "space": {"kind": "layerwise", "ranges": {"weight": [0, 1.5]}},
        "tasks": {
            "count": {"evaluator": "lm_eval_task", "task": "count", "include_path": str(tiny.lm_eval)},
            "sort": {"evaluator": "lm_eval_task", "task": "sort", "include_path": str(tiny.lm_eval)},
        },
        "budget": {"trials": 24},
        "workers": 2,
        "study": str(folder / "study"),
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings))
    return file


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def shards(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def finished(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search and its export; one of the workers was killed on the way."""
    folder = tmp_path_factory.mktemp("main-job")
    command = [sys.executable, "-m", "evomerge.cli", "search", str(write_search(folder, tiny))]
    ledger = folder / "study" / "ledger.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        while driver.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b'"told"') < 6):
            time.sleep(0.01)
        os.kill(worker_of(driver.pid), signal.SIGKILL)
        output, errors = driver.communicate(timeout=CEILING)
    assert driver.returncode == 0, output[-2000:] + errors[-2000:]
    run("export", folder / "study", "-o", folder / "out")
    return folder


def test_the_exported_folder_gives_the_reported_numbers_without_us(finished: Path, tiny: TinyModels) -> None:
    command = [sys.executable, "-c", LOAD_WITHOUT_US, str(finished / "out"), str(tiny.lm_eval)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    scores = json.loads((finished / "out" / "evomerge.json").read_text())["scores"]
    ours = next(row for label, row in scores.items() if label.endswith(", all examples"))
    assert ours["count"] == pytest.approx(theirs["count"]["acc,none"], abs=1e-9)
    assert ours["sort"] == pytest.approx(theirs["sort"]["exact_match,none"], abs=1e-9)


def test_the_recipe_makes_the_same_bytes_anywhere(finished: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "evomerge.cli",
        "merge",
        finished / "out" / "recipe.yaml",
        "-o",
        finished / "again",
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment)
    assert shards(finished / "out")
    assert shards(finished / "out") == shards(finished / "again")


def test_the_study_holds_every_baseline_and_a_verdict(finished: Path) -> None:
    study = Study.read(finished / "study")
    labels = {entry.trial.label for entry in study.told if entry.trial.split == "report"}
    assert {"base", "parent:count", "parent:largest", "parent:sort", "uniform"} <= labels
    status = json.loads(run("status", finished / "study", "--json"))
    assert "verdict" in json.dumps(status)


def test_a_killed_worker_costs_no_trial(finished: Path) -> None:
    study = Study.read(finished / "study")
    assert 23 <= evaluations(study) <= 25
    assert not study.unfinished
    assert study.parts  # gradient steps, by the default optimizer
    assert all(e.outcome is not None and e.outcome.failure is None for e in study.ended)
    assert [kind for kind, _ in study.events if kind == "worker_died"]


def worker_of(driver: int) -> int:
    """The process of one Ray worker under the driver, read off /proc: our actors are the busy ones."""
    children: dict[int, list[int]] = {}
    times = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
        times[int(folder.name)] = int(fields[11]) + int(fields[12])
    found, waiting = [], [driver]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    workers = [pid for pid in found if b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return max(workers, key=lambda pid: times[pid])
