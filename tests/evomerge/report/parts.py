"""Studies with partial trials: a real race, and a descent along gradients with known numbers."""

from pathlib import Path

import numpy as np

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Scores
from evomerge.loop import DECIDED
from evomerge.objective import Objective
from evomerge.objective.spec import record_objective
from evomerge.study import Study
from evomerge.trial import Outcome, Trial
from tests.evomerge.report.studies import baseline
from tests.evomerge.searches import run_here
from tests.toys import search_file

IDS = tuple(f"{n:016x}" for n in range(8))
ONE = Objective({"one": 1.0})


def raced_file(folder: Path, **changes: object) -> Path:
    """The search file of a race on 439 search examples."""
    tasks = {
        "one": {"evaluator": "synthetic", "n_examples": 400, "noise": "binomial"},
        "two": {"evaluator": "synthetic", "n_examples": 200, "noise": "binomial", "task": 1},
    }
    split = {"search": 0.7, "select": 0.15, "report": 0.15}
    settings = {"racing": "aggressive", "tasks": tasks, "split": split, "budget": {"trials": 20}} | changes
    file = folder / "search.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(strict_yaml.dump(search_file(folder, **settings)), encoding="utf-8")  # type: ignore[arg-type]
    return file


def raced(folder: Path, **changes: object) -> Path:
    """The folder of a finished search whose candidates race."""
    run_here(raced_file(folder, **changes))
    return folder / "study"


def whole(study: Study, trial: Trial, right: int) -> None:
    """Score a trial on all 8 examples."""
    study.ask(trial)
    values = (np.arange(8) < right).astype(np.float64)
    scores = {"one": Scores(IDS, values)}
    study.tell(
        Outcome(trial.number, scores, seconds={"merge": 0.5, "evaluate:one": 1.0}, worker="w"), ONE.losses(scores)
    )


def step(study: Study, number: int, loss: float, *, gradient: float = 1.0) -> None:
    """Take one gradient, on 2 of the 8 examples: 0.75 evaluations."""
    trial = Trial(number, np.array([0.5]), examples={"one": IDS[:2]}, gradient={"one": 1.0}, cost=0.75)
    study.ask(trial)
    scores = {"one": Scores(IDS[:2], np.array([loss - 0.25, loss + 0.25]))}
    outcome = Outcome(number, scores, np.array([gradient]), seconds={"gradient:one": 2.0}, worker="w")
    study.tell(outcome, None)


def descended(folder: Path, *, n_steps: int = 3) -> Study:
    """Two baselines, the start, two descents with a check after each, the second of which is one step; open."""
    study = Study.create(folder, {"tasks": {"one": "synthetic"}, "objective": "mean", "optimizer": "gradient"}, {})
    record_objective(study, ONE)
    whole(study, Trial(0, None, merge=baseline(1.0), label="parent:a"), 2)
    whole(study, Trial(1, None, merge=baseline(0.5), label="uniform"), 4)
    whole(study, Trial(2, np.array([0.5]), label="start"), 4)
    study.event(DECIDED, text="Gradients on one, which has a loss")
    for n in range(n_steps):
        step(study, 3 + n, 1.0 - n / 4)
    whole(study, Trial(3 + n_steps, np.array([0.6])), 6)
    study.event(DECIDED, text="Descent in all groups: kept")
    step(study, 4 + n_steps, 4.0, gradient=np.nan)
    whole(study, Trial(5 + n_steps, np.array([0.7])), 5)
    return study
