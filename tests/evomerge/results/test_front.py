"""The front of a study: who is on it, how sure that is, and what it covers, worked out by hand."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evomerge.objective import Floor, Objective
from evomerge.results.front import Front, front, knee_distances
from evomerge.statistics import estimate
from evomerge.trial import CANARY, Origin, Trial
from tests.evomerge.report.fronts import PARETO, SEARCH, tell, trial, values, write_front
from tests.evomerge.report.studies import OBJECTIVE, write_study


def read(folder: Path, objective: Objective = PARETO, split: str = "search", models: dict = SEARCH) -> Front:
    study = write_front(folder, models, objective)
    study.close()
    return front(study, objective, split)


def test_what_no_other_model_beats_comes_first(tmp_path: Path) -> None:
    found = read(tmp_path / "study")
    # parent:math (8, 3) is dominated by none; base, start, uniform and 10 are.
    assert [point.label for point in found.points if point.label in found.on_front] == [
        *("trial:6", "trial:9", "parent:math", "trial:8"),
        *("parent:chat", "trial:5", "trial:7"),
    ]
    assert [point.label for point in found.points if point.label not in found.on_front] == [
        "trial:10",
        "uniform",
        "trial:4",
        "base",
    ]
    kinds = {point.label: point.kind for point in found.points}
    assert (kinds["trial:4"], kinds["trial:6"], kinds["uniform"]) == ("start", "candidate", "average")
    assert (kinds["base"], kinds["parent:chat"]) == ("base", "parent")
    assert [point.label for point in found.choices] == ["trial:5", "trial:6", "trial:7", "trial:8", "trial:9"]
    assert [point.label for point in found.parents] == ["parent:math", "parent:chat", "base"]


def test_scores_are_those_of_the_examples(tmp_path: Path) -> None:
    point = next(p for p in read(tmp_path / "study", Objective({"math": 3.0, "chat": 1.0})).points if p.number == 8)
    assert point.tasks["math"] == estimate({"math": values(7)})
    assert point.score.mean == pytest.approx(0.75 * 0.7 + 0.25 * 0.4)
    assert point.losses.tolist() == [-0.7, -0.4]


def test_the_probability_is_that_of_drawing_the_example_that_makes_the_difference(tmp_path: Path) -> None:
    # 1 beats 0 by one example of ten: they are level, and both on the front, where it is not drawn.
    objective = Objective({"math": 1.0})
    found = read(tmp_path / "study", objective, models={0: [5], 1: [6]})
    by_number = {point.number: found.probability[point.label] for point in found.points}
    assert by_number[1] == 1.0
    assert by_number[0] == pytest.approx(0.9**10, abs=0.03)


def test_hypervolume_counts_from_the_worst_of_base_and_parents(tmp_path: Path) -> None:
    found = read(tmp_path / "study")
    assert found.volume_reference == {"math": 0.2, "chat": 0.2}
    assert found.hypervolume is not None
    assert found.of_models is not None
    # From (.2, .2): parent:math .6 x .1, then 8 adds .5 x .1 and 6 adds .4 x .2; parent:chat has nothing of math.
    assert found.hypervolume.value == pytest.approx(0.06 + 0.05 + 0.08)
    assert found.of_models.value == pytest.approx(0.06)
    assert found.hypervolume.low < found.hypervolume.value < found.hypervolume.high


def test_without_base_and_parents_there_is_no_hypervolume(tmp_path: Path) -> None:
    found = read(tmp_path / "study", models={0: (5, 5), 1: (6, 1)})
    assert (found.hypervolume, found.of_models, found.volume_reference) == (None, None, None)
    assert found.reference.losses is None
    assert found.preferred is not None


def test_the_knee_lies_farthest_before_the_line_of_the_extremes() -> None:
    # Scaled by the ranges 8 and 4: (0, 1), (1, 0), (.25, .25), (.5, .25); the line is x + y = 1.
    losses = np.array([[0.0, 4.0], [8.0, 0.0], [2.0, 1.0], [4.0, 1.0]])
    assert knee_distances(losses) == pytest.approx(np.array([0, 0, 0.5, 0.25]) / np.sqrt(2))
    # The plane of three objectives goes through points that are best in one of them and worst in two: sum 2.
    three = np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0], [0.5, 0.5, 0.5]])
    assert knee_distances(three) == pytest.approx(np.array([0, 0, 0, 0.5]) / np.sqrt(3))
    assert knee_distances(np.array([[1.0, 2.0]])).tolist() == [0.0]


def test_the_knee_and_the_preferred_choice(tmp_path: Path) -> None:
    found = read(tmp_path / "study")
    assert found.knee is not None
    assert found.preferred is not None
    # 6 and 9 are equal, and the earlier one is taken.
    assert (found.knee.number, found.preferred.number) == (6, 6)
    mathematician = front(write_front(tmp_path / "other", SEARCH), replace(PARETO, weights={"math": 3.0, "chat": 1.0}))
    assert mathematician.preferred is not None
    assert mathematician.preferred.number == 5  # .75 x .9 + .25 x .1 = .7 against .625 of 8 and .6 of 6


@pytest.mark.parametrize(
    ("objective", "number"),
    [
        (Objective({"math": 1.0, "chat": 1.0}), 6),
        # Behind the parents (.8, .8): 6 by .2 at most, 8 by .4.
        (Objective({"math": 1.0, "chat": 1.0}, kind="chebyshev"), 6),
        # Only 7 falls less than .05 behind .8 on chat.
        (replace(PARETO, keep={"chat": Floor(0.05)}), 7),
    ],
)
def test_the_study_prefers_as_its_objective_does(tmp_path: Path, objective: Objective, number: int) -> None:
    preferred = read(tmp_path / "study", objective).preferred
    assert preferred is not None
    assert preferred.number == number


def test_less_is_better_where_the_task_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    found = front(study, OBJECTIVE)
    study.close()
    # One up, two down: 4 has (.75, 1), parents (.5, 1) and (.25, 1), 3 and 6 have two = 2. Failures do not count.
    assert [point.label for point in found.points if point.label in found.on_front] == ["trial:4"]
    assert found.points[0].tasks["two"].mean == 1.0
    assert found.volume_reference == {"one": 0.25, "two": 1.0}
    assert (len(found.points), found.pending) == (5, 1)


def test_finalists_go_by_their_number_on_the_search_split(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study")
    tell(study, Trial(11, np.array([0.1, 0.2]), label=Origin.RECOMMENDED.label(11)), (6, 5))
    for number, label in enumerate(("parent:math", 11, 4, "uniform"), 12):
        tell(study, trial(number, label, "select"), (5, 5))
    study.close()
    found = front(study, PARETO, "select")
    assert {(point.label, point.number, point.kind) for point in found.points} == {
        ("parent:math", 1, "parent"),
        ("trial:11", 11, "recommended"),
        ("trial:4", 4, "start"),
        ("uniform", 3, "average"),
    }
    assert found.optimism is None
    assert [point.number for point in front(study, PARETO).points if point.kind == "recommended"] == [11]


def test_only_what_was_scored_on_the_same_examples_is_compared(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study")
    tell(study, Trial(11, np.array([0.1, 0.2]), label=CANARY), (10, 10))
    tell(study, trial(12, 12), (5, 5), n_examples=5)  # all right, of half the examples
    study.close()
    found = front(study, PARETO)
    assert found.left_out == 1
    assert found.examples == {"math": 10, "chat": 10}
    assert max(point.number for point in found.points) == 10


def test_what_the_search_found_is_shrunk(tmp_path: Path) -> None:
    found = read(tmp_path / "study")
    shrunk = {point.number: found.shrunk[point.label] for point in found.points if point.label in found.shrunk}
    # The better half of the seven candidates: 6 and 9 with .6, 8 with .55, and 5 (.5, before 7 with the same score).
    assert sorted(shrunk) == [5, 6, 8, 9]
    assert found.optimism is not None
    mean = (0.6 + 0.6 + 0.55 + 0.5) / 4
    assert shrunk[6] == pytest.approx(mean + found.optimism.reliability * (0.6 - mean))


def test_nothing_scored_is_no_error(tmp_path: Path) -> None:
    found = read(tmp_path / "study", split="report")
    assert (found.points, found.choices, found.preferred, found.knee) == ((), (), None, None)


def test_what_takes_long_to_import_is_not_needed() -> None:
    heavy = (
        "torch",
        "transformers",
        "lm_eval",
        "ray",
        "optuna",
        "numba",
        "scipy.stats",
        "scipy.optimize",
        "matplotlib",
    )
    code = (
        "import sys\nfrom evomerge.commands import pareto, pick, report, status\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_task_in_which_all_are_equal_takes_no_hypervolume_away(tmp_path: Path) -> None:
    models = {"base": (2, 2, 5), "parent:math": (8, 3, 5), 5: (9, 1, 5), 6: (6, 6, 5)}
    three = Objective({"math": 1.0, "chat": 1.0, "size": 1.0}, kind="pareto")
    found = read(tmp_path / "three", three, models=models)
    two = read(tmp_path / "two", models={label: right[:2] for label, right in models.items()})
    assert found.hypervolume is not None
    assert two.hypervolume is not None
    assert found.hypervolume.value == two.hypervolume.value > 0
