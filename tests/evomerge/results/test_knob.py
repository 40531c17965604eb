"""The positions of a knob on fronts that are worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from evomerge.objective import Objective
from evomerge.results.front import Front, front
from evomerge.results.knob import Knob, knob
from evomerge.results.pick import ChoiceError
from evomerge.study import Study
from tests.evomerge.report.fronts import PARETO, tell, trial, write_front


def turned(study: Study, tasks: tuple[str, str] | None = None, objective: Objective = PARETO) -> Knob:
    return knob(study, front(study, objective), tasks)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The front (math, chat): 5 (.9, .1), 8 (.7, .4), 6 and 9 (.6, .6), 7 (.1, .9)."""
    written = write_front(tmp_path_factory.mktemp("knob") / "study")
    written.close()
    return written


def test_scored_merges_lie_by_the_length_of_the_front(study: Study) -> None:
    found = turned(study)
    assert [stop.point.number for stop in found.stops] == [5, 8, 6, 7]  # 9 is as good as 6
    # Both tasks range over .8.
    steps = np.hypot([0.2, 0.1, 0.5], [0.3, 0.2, 0.3])
    assert [stop.t for stop in found.stops] == pytest.approx([0.0, *(np.cumsum(steps) / steps.sum())])
    assert found.joined == (True, True, True)
    assert (found.split, found.tasks, found.left_out) == ("search", ("math", "chat"), ())


def test_the_other_way_round(study: Study) -> None:
    forth, back = turned(study), turned(study, ("chat", "math"))
    assert [stop.point.number for stop in back.stops] == [7, 6, 8, 5]
    assert [stop.t for stop in back.stops] == pytest.approx([1.0 - stop.t for stop in reversed(forth.stops)])


def test_a_position_is_a_scored_merge_or_a_share_of_its_neighbors(study: Study) -> None:
    found = turned(study)
    at = found.stops[1].t
    assert [(s.first.point.number, s.is_evaluated, s.is_moved) for s in map(found.at, (0.0, at, 1.0))] == [
        (5, True, False),
        (8, True, False),
        (7, True, False),
    ]
    between = found.at(0.25 * at)
    assert between.second is not None
    assert (between.first.point.number, between.second.point.number) == (5, 8)
    assert between.share == pytest.approx(0.25)
    assert not between.is_evaluated
    assert [setting.t for setting in found.steps(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for t in (-0.1, 1.1, float("nan")):
        with pytest.raises(ChoiceError, match="from 0, best on math, to 1, best on chat"):
            found.at(t)


def test_merges_that_are_no_points_of_the_space_are_left_out(tmp_path: Path) -> None:
    written = write_front(tmp_path / "study", {"uniform": (6, 6), 1: (9, 1), 2: (1, 9)})
    written.close()
    found = turned(written)
    assert [stop.point.number for stop in found.stops] == [1, 2]
    assert found.left_out == ("uniform",)


def test_of_several_tasks_two_decide(tmp_path: Path) -> None:
    three = Objective({"math": 1.0, "chat": 1.0, "code": 1.0}, kind="pareto")
    written = write_front(tmp_path / "study", {1: (9, 1, 1), 2: (1, 9, 1), 3: (1, 1, 9), 4: (5, 5, 1)}, three)
    written.close()
    numbers = [stop.point.number for stop in turned(written, ("chat", "math"), three).stops]
    assert numbers == [1, 3, 0], "2 is on the front of three tasks, not of these"
    with pytest.raises(ChoiceError, match=r"this study has 3 \(math, chat, code\). Name two of them with --between"):
        turned(written, None, three)
    with pytest.raises(ChoiceError, match="Did you mean 'code'"):
        turned(written, ("math", "cods"), three)
    with pytest.raises(ChoiceError, match="got math twice"):
        turned(written, ("math", "math"), three)


def test_one_merge_is_no_front(tmp_path: Path) -> None:
    written = write_front(tmp_path / "study", {1: (9, 9), 2: (1, 9)})
    written.close()
    with pytest.raises(ChoiceError, match=r"needs two merges .* there is only trial:0\."):
        turned(written)
    found: Front = front(written, PARETO, "select")
    with pytest.raises(ChoiceError, match=r"there are none\. The search split may have more: --split search"):
        knob(written, found)


def test_nothing_is_between_two_methods(tmp_path: Path) -> None:
    tasks = {"math": "synthetic", "chat": "synthetic"}
    apart = Study.create(tmp_path / "apart", {"tasks": tasks, "objective": "pareto"}, {})
    apart.event("coordinates", names=["method"], ranges={}, methods={"ties": 1, "slerp": 1})
    # The first coordinate, a twentieth of the number, picks the method.
    for number, right in ((2, (9, 1)), (4, (6, 6)), (14, (1, 9))):
        tell(apart, trial(number, number), right)
    apart.close()
    found = turned(apart)
    assert found.joined == (True, False)
    near = found.at(found.stops[1].t + 0.01)
    assert (near.first.point.number, near.is_evaluated, near.is_moved) == (4, True, True)


@pytest.mark.parametrize(("space", "joined"), [("uniform", True), ("dataflow", False), ("no_lab:Space", False)])
def test_nothing_is_between_two_paths(tmp_path: Path, space: str, joined: bool) -> None:
    tasks = {"math": "synthetic", "chat": "synthetic"}
    written = Study.create(tmp_path / "study", {"tasks": tasks, "objective": "pareto", "space": space}, {})
    for number, right in ((1, (9, 1)), (2, (1, 9))):
        tell(written, trial(number, number), right)
    written.close()
    assert turned(written).joined == (joined,)
