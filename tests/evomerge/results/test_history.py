"""How a search went on, over studies whose fronts can be worked out by hand."""

from pathlib import Path

import pytest

from evomerge.objective import Objective
from evomerge.results.front import front
from evomerge.results.history import history
from tests.evomerge.report.fronts import PARETO, SEARCH, write_front


def test_a_task_in_which_all_are_equal_takes_no_hypervolume_away(tmp_path: Path) -> None:
    three = Objective({"math": 1.0, "chat": 1.0, "same": 1.0}, kind="pareto")
    volumes = []
    for folder, objective, models in (
        (tmp_path / "two", PARETO, SEARCH),
        (tmp_path / "three", three, {label: (*right, 5) for label, right in SEARCH.items()}),
    ):
        study = write_front(folder, models, objective)
        found = front(study, objective)
        volumes.append(history(study, found)["hypervolume"])
        assert found.hypervolume is not None
        assert volumes[-1][-1] == pytest.approx(found.hypervolume.value)
    assert volumes[0] == volumes[1]
    assert volumes[0][-1] > 0
