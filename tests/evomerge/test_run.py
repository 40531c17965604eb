"""A run's folder is read once, when something is asked of it, and only read."""

from pathlib import Path

import numpy as np
import pytest

from evomerge.run import Run
from evomerge.study import Study, StudyError
from evomerge.trial import Trial
from tests.evomerge.report.fronts import finish, tell, write_front


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_front(tmp_path / "night")


def test_a_run_shows_the_moment_at_which_it_was_opened(study: Study) -> None:
    run = Run(study.folder)
    assert len(run.scored().points) == 11
    tell(study, Trial(study.next_number, np.array([0.1, 0.2])), (9, 9))
    assert run.scored() is run.scored("search")
    assert len(run.scored().points) == 11
    assert len(Run(study.folder).scored().points) == 12


def test_a_study_that_is_open_is_a_run_too(study: Study) -> None:
    run = Run.of(study)
    assert run.selected is None
    study.event("selected", label="trial:6", candidates=11)
    assert run.selected == "trial:6"


def test_nothing_can_be_written_through_it(study: Study) -> None:
    study.close()
    with pytest.raises(StudyError, match="reading only"):
        Run(study.folder).study.event("selected", label="base")


def test_the_optimizer_was_told_what_the_ledger_holds(study: Study) -> None:
    finish(study, {6: (6, 6)}, {6: (6, 6)})
    optimizer = Run(study.folder).optimizer
    assert (optimizer.dimension, optimizer.n_objectives) == (2, 2)
    searched = [entry.trial for entry in study.entries.values() if entry.trial.split == "search"]
    assert all(optimizer.knows(trial.x) for trial in searched if trial.x is not None)
    with pytest.raises(StudyError, match=r"night has asked for no candidate yet"):
        _ = Run.of(write_front(study.folder.parent / "new" / "night", {})).optimizer


def test_a_folder_without_a_study_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=f"There is no study in {tmp_path}: it has no ledger"):
        Run(tmp_path)
    with pytest.raises(StudyError, match=r"absent: it does not exist\. Name the folder"):
        Run(tmp_path / "absent")
    (tmp_path / "search.yaml").touch()
    with pytest.raises(StudyError, match=r"search\.yaml: it is a file\. Name the folder"):
        Run(tmp_path / "search.yaml")


def test_a_trial_that_is_not_there_is_answered_with_those_that_are(study: Study) -> None:
    assert Run.of(study).entry(5).trial.number == 5
    with pytest.raises(StudyError, match=r"night has no trial 99\. It has 0 to 10 \(on the search split\)"):
        Run.of(study).entry(99)


def test_everything_that_a_notebook_shows_is_a_line(study: Study) -> None:
    study.event("selected", label="trial:6", candidates=11)
    finish(study, {6: (6, 6), "base": (2, 2)}, {6: (6, 6), "base": (2, 2)})
    run = Run(study.folder)
    assert run.best is not None
    assert repr(run.best) == "ScoredModel(label='trial:6', kind='candidate', split='report', score=0.6)"
    assert len(repr(run.front)) < 100 * len(run.front)
    assert repr(run.scored()) == "Front(split='search', 7 of 11 models non-dominated)"
    assert repr(run.selection) == "Selection(winner='trial:6', models=2)"
    assert repr(run.entry(6).trial) == "Trial(number=6, label='search', split='search')"
    baseline = next(entry.trial.merge for entry in study.entries.values() if entry.trial.merge is not None)
    assert repr(baseline).startswith("Merge(Recipe(method='")
    assert "CoefficientTable(1 groups, values of shapes {'weight': " in repr(baseline)
    assert max(map(len, map(repr, (baseline, run.entry(6), *run.front, *run.predicted)))) < 400
