"""Real searches, here or in processes of their own, and what they leave in their ledgers."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.study import Study
from tests.evomerge.forks import Fork
from tests.toys import search_file


def write_search(folder: Path, *, trials: int = 40, delay: float = 0.02, **changes: object) -> Path:
    """A search file over the toys, one candidate at a time, whose first task takes `delay` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {
        "one": {"evaluator": "synthetic", "n_examples": 60, "delay": delay, "fail": 0.05},
        "two": {"evaluator": "synthetic", "task": 1, "n_examples": 60},
    }
    settings = search_file(folder, tasks=tasks, budget={"trials": trials}, **changes)
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings), encoding="utf-8")
    return file


def run_here(file: Path, *options: object) -> list[dict[str, Any]]:
    """Run a search to its end in this process, which has imported everything already; the lines that it printed."""
    done = CliRunner().invoke(app, ["search", str(file), *map(str, options), "--json"])
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def evomerge(*arguments: object, **environment: str) -> Fork:
    """The command line in a process and session of its own; its block waits for its end."""
    return Fork(*arguments, environment=environment)


def history(folder: Path) -> list[tuple[object, ...]]:
    """All that a ledger says but times: numbers, points, losses, scores, in order of telling; and the events."""
    study = Study.read(folder)
    told = [
        (
            e.trial.number,
            e.trial.label,
            e.trial.split,
            None if e.trial.x is None else e.trial.x.tobytes(),
            e.losses,
            None if e.outcome is None else {t: s.values.tobytes() for t, s in e.outcome.scores.items()},
        )
        for e in study.told
    ]
    return [*told, *((kind, sorted(data.items())) for kind, data in study.events)]
