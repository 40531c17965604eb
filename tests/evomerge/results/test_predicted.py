"""Predictions from the ledger alone: those of the optimizer that ran, beside what was measured."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from evomerge import plugins
from evomerge.commands.pareto import show_front
from evomerge.objective import Objective
from evomerge.optimizers.base import Observation, Optimizer
from evomerge.plugins import PluginSpec
from evomerge.results.front import front
from evomerge.results.predicted import for_table
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Trial
from tests.evomerge.report.fronts import PARETO, tell, write_front

#: Right answers of 400 to math and chat, at x on a line: they trade off.
POINTS = {x / 8: (200 + 20 * x, 380 - 3 * x * x) for x in range(9)}


def printed(text: RenderableType) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(text)
    return console.export_text()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = write_front(tmp_path_factory.mktemp("predicted") / "study", {}, optimizer="map")
    for number, (x, right) in enumerate(POINTS.items()):
        point = Trial(number, np.array([x, 0.5]), label="start" if number == 4 else "search")
        tell(study, point, right, n_examples=400)
    study.close()
    return Study.read(study.folder)


def test_they_are_those_of_the_optimizer_that_was_told_the_same(study: Study) -> None:
    found = Run.of(study).predicted
    start = np.array([0.5, 0.5])
    alone: Optimizer = plugins.build(
        "optimizer", PluginSpec("map"), Optimizer, dimension=2, n_objectives=2, seed=0, start=start
    )
    for entry in study.told:
        examples = PARETO.examples(entry.outcome.scores)
        losses = np.array(entry.losses)
        alone.tell(Observation(entry.trial.number, entry.trial.x, losses, entry.trial.label == "search", examples))
    wanted = alone.predictions()
    assert wanted
    assert [point.x.tolist() for point in found] == [prediction.x.tolist() for prediction in wanted]
    assert found[0].tasks["math"].mean == pytest.approx(-wanted[0].losses[0])
    assert found[0].tasks["chat"].standard_error == pytest.approx(wanted[0].errors[1])


def test_the_nearest_measured_point_stands_beside(study: Study) -> None:
    points = front(study, PARETO).points
    for each in Run.of(study).predicted:
        gaps = {x: np.sqrt(((each.x - [x, 0.5]) ** 2).mean()) for x in POINTS}
        x = min(gaps, key=lambda x: gaps[x])
        assert each.distance == pytest.approx(gaps[x])
        assert each.nearest.number == round(8 * x)
        losses = np.array([-value.mean for value in each.tasks.values()])
        assert each.dominated == any((point.losses <= losses + 1e-12).all() for point in points)


def test_few_for_a_table_are_spread_and_non_dominated(study: Study) -> None:
    found = Run.of(study).predicted
    open_ = [point for point in found if not point.dominated]
    chosen = for_table(found)
    assert len(open_) > len(chosen) == 12
    assert chosen[0] is open_[0]
    assert not any(point.dominated for point in chosen)
    for task in ("math", "chat"):
        assert max(p.tasks[task].mean for p in chosen) == max(p.tasks[task].mean for p in open_), "an end of the front"
    assert for_table([point for point in found if point.dominated]) == ()


@pytest.mark.parametrize("optimizer", ["random", "nsga2"])
def test_an_optimizer_without_a_model_predicts_nothing(tmp_path: Path, optimizer: str) -> None:
    study = write_front(tmp_path / "study", optimizer=optimizer)
    study.close()
    assert Run.of(study).predicted == ()


def test_a_mean_has_no_predicted_front(tmp_path: Path) -> None:
    mean = Objective({"math": 1.0, "chat": 1.0})
    study = write_front(tmp_path / "study", objective=mean, optimizer="gp")
    study.close()
    assert Run.of(study).predicted == ()


def test_torch_is_not_needed(study: Study) -> None:
    code = (
        "import sys\nfrom evomerge.run import Run\nfrom evomerge.commands.pareto import show_front\n"
        "data, _ = show_front(Run(sys.argv[1]), 'search', 80)\n"
        "print(bool(data['predicted']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(study.folder)], capture_output=True, text=True)
    assert done.stdout == "True False\n", done.stderr


def test_all_that_no_measured_point_dominates_are_listed_when_asked_for(study: Study) -> None:
    found = Run.of(study).predicted
    wanted = [f"predicted {point.number}" for point in found if not point.dominated]
    few, every = (
        re.findall(r"predicted \d+", printed(show_front(Run(study.folder), "search", 200, everything=everything)[1]))
        for everything in (False, True)
    )
    assert every == wanted
    assert set(few) < set(every)


@pytest.mark.parametrize(("optimizer", "why"), [("map", "its design of 5 points is measured; 1 are"), ("nsga2", None)])
def test_pareto_says_why_nothing_is_predicted(tmp_path: Path, optimizer: str, why: str | None) -> None:
    study = write_front(tmp_path / "study", {"start": (5, 5), 1: (6, 4)}, optimizer=optimizer)
    study.close()
    data, text = show_front(Run(study.folder), "search", 160)
    assert data["predicted"] == []
    assert len([note for note in data["notes"] if "predict" in note]) == (why is not None)
    assert why is None or why in " ".join(printed(text).split())
