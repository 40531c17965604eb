"""evomerge and mergekit-evolve in the same time: `python -m tests.benchmarks.bench_evolve [--minutes 5]`.

The demo's models (`make demo` makes them) and their four tasks of lm-eval, per-layer weights, CMA-ES, two workers of
one thread each. Both searches get half of the examples and the same time, start to end; evomerge keeps a part of its
half for the choice of the winner, as it always does. Printed: candidates per minute, and the score of each winner on
the other half, by lm-eval's own loop on the exported folder.

mergekit-evolve runs in an environment of its own, given as `--python`: `pip install 'mergekit[evolve]==0.1.5'`. What it
needs to run on CPUs is in `evolve_on_cpus.py`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evomerge.study import Study

METRICS = {"count": "acc,none", "find": "acc,none", "reverse": "exact_match,none", "sort": "exact_match,none"}
WORKERS = 2


def write_tasks(models: Path, folder: Path) -> None:
    """Write the tasks of lm-eval twice, on the even and on the odd examples: folders `search` and `report`."""
    for at, half in enumerate(("search", "report")):
        (folder / half).mkdir()
        for task in METRICS:
            lines = (models / "data" / f"{task}.jsonl").read_text().splitlines()[at::2]
            file = folder / half / f"{task}.jsonl"
            file.write_text("\n".join(lines) + "\n")
            written = (models / "lm_eval" / f"{task}.yaml").read_text()
            text = re.sub(r"test: .*", f"test: {json.dumps(str(file))}", written)
            (folder / half / f"{task}.yaml").write_text(text)


def run_evolve(python: str, models: Path, folder: Path, seconds: float, mode: str) -> tuple[int, Path]:
    """Run mergekit-evolve; return the number of candidates that it scored, and the folder of its final model."""
    genome = {
        "models": [str(models / name) for name in METRICS],
        "base_model": str(models / "base"),
        "merge_method": "task_arithmetic",
        "layer_granularity": 1,
        "normalize": False,
    }
    tasks = [{"name": name, "weight": 1 / len(METRICS), "metric": metric} for name, metric in METRICS.items()]
    config = {"genome": genome, "tasks": tasks, "apply_chat_template": False, "fewshot_as_multiturn": False}
    file, out = folder / "evolve.yaml", folder / "evolve"
    file.write_text(yaml.safe_dump(config))
    here = Path(__file__).parent / "evolve_on_cpus.py"
    log = folder / "evolve.log"
    words = [python, str(here), str(file), "--storage-path", str(out), "--num-gpus", str(WORKERS)]
    words += ["--no-merge-cuda", f"--{mode}", "--task-search-path", str(folder / "search"), "--batch-size", "64"]
    words += ["--max-fevals", "100000", "--timeout", str(seconds)]
    with log.open("w") as stream:
        code = subprocess.run(words, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise SystemExit(f"mergekit-evolve ended with exit code {code}; the end of its log:\n{log.read_text()[-3000:]}")
    generations = [int(n) for n in re.findall(r"Received (\d+) genotypes", log.read_text())]
    return sum(generations), out / "final_model"


def run_evomerge(models: Path, folder: Path, seconds: float, optimizer: str) -> tuple[int, Path]:
    """Run a search with evomerge; return the number of candidates that it scored, and the folder of its winner."""
    search = {
        "base": str(models / "base"),
        "experts": {name: str(models / name) for name in METRICS},
        "method": "task_arithmetic",
        "space": {"kind": "auto" if optimizer == "auto" else "layerwise"},
        "tasks": {
            name: {"evaluator": "lm_eval_task", "task": name, "include_path": str(folder / "search")}
            for name in METRICS
        },
        "optimizer": optimizer,
        "budget": {"hours": seconds / 3600},
        "split": {"search": 0.7, "select": 0.2, "report": 0.1},
        "workers": WORKERS,
        "study": str(folder / optimizer),
    }
    file, out = folder / f"{optimizer}.yaml", folder / f"{optimizer}-winner"
    file.write_text(yaml.safe_dump(search))
    for words in (["search", str(file)], ["export", str(folder / optimizer), "--best", "-o", str(out)]):
        done = subprocess.run(
            [sys.executable, "-m", "evomerge.cli", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    study = Study.read(folder / optimizer)
    return sum(entry.trial.split == "search" and not entry.trial.is_part for entry in study.told), out


def held_out(model: Path, folder: Path) -> dict[str, float]:
    """Return the scores of a folder of weights on the other half of the examples, by lm-eval's own loop."""
    tasks = TaskManager(include_path=str(folder / "report"))
    scorer = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=64)
    found = simple_evaluate(scorer, tasks=list(METRICS), task_manager=tasks, log_samples=False, verbosity="ERROR")
    assert found is not None
    return {task: float(found["results"][task][metric]) for task, metric in METRICS.items()}


def row(label: str, counted: int, seconds: float, scores: dict[str, float]) -> str:
    mean = sum(scores.values()) / len(scores)
    each = ", ".join(f"{score:.3f}" for score in scores.values())
    return f"| {label} | {counted} | {60 * counted / seconds:.1f} | {seconds:.0f} | {mean:.3f} | {each} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--python", required=True, help="of the environment with mergekit[evolve]")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--mode", choices=["in-memory", "no-in-memory"], default="no-in-memory")
    given = parser.parse_args(arguments)
    models, seconds = given.models.resolve(), 60 * given.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tasks(models, folder)
        print(f"| search | candidates | per minute | seconds | held out | {', '.join(METRICS)} |")
        print("|---|---|---|---|---|---|", flush=True)
        begin = time.monotonic()
        counted, model = run_evolve(given.python, models, folder, seconds, given.mode)
        print(
            row(f"mergekit-evolve, {given.mode}", counted, time.monotonic() - begin, held_out(model, folder)),
            flush=True,
        )
        for optimizer in ("cma_es", "auto"):
            begin = time.monotonic()
            counted, model = run_evomerge(models, folder, seconds, optimizer)
            found = held_out(model, folder)
            print(row(f"evomerge, {optimizer}", counted, time.monotonic() - begin, found), flush=True)


if __name__ == "__main__":
    main()
