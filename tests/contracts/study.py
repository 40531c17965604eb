"""What every study must do: survive, replay, refuse. Subclass with a fixture `study_type`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.recipe import Input, Merge, Recipe
from evomerge.study import ConfigurationChanged, Entry, Study, StudyBusy, StudyError, StudyExists
from evomerge.study.writer import Files
from evomerge.trial import Failure, FloatArray, Outcome, Trial
from search_spaces.base import CoefficientTable

CONFIGURATION = {"space": "uniform", "budget": {"trials": 5}, "seed": 0}
ENVIRONMENT = {"python": "3"}


class Unsynced(Files):
    """For tests in which nothing dies: no waiting for the disk."""

    def fsync(self, descriptor: int) -> None:
        pass

    def allocate(self, descriptor: int, size: int) -> None:
        pass


def trial(number: int, **changes: object) -> Trial:
    x = np.array([number / 7, 1 / 3, 0.1 + 0.2])
    return Trial(number, **({"x": x, "seed": 2**40 + number} | changes))  # type: ignore[arg-type]


def outcome(number: int, n_examples: int = 3) -> Outcome:
    values = np.array([np.nan, -1 / 3, np.inf, *range(n_examples - 3)])
    choices = tuple(np.array([-1.23456789 * (n + 1), -np.inf]) for n in range(n_examples))
    scores = Scores(tuple(f"e{n}" for n in range(n_examples)), values, choices, truncated=2)
    event = {"event": "worker_died", "trial": number, "attempt": 1}
    return Outcome(number, {"add": scores}, seconds={"merge": 0.1 + 0.2}, worker="w", events=(event,))


def failed(number: int) -> Outcome:
    return Outcome(number, failure=Failure("ValueError", "bad \u2603\n", "trace"))


def baseline() -> Merge:
    recipe = Recipe(Input("base", "models/base"), (Input("add", "models/add"),), "linear", {"normalize": True})
    table = CoefficientTable({"all": ("a", "b")}, {"weight": np.array([[0.1 + 0.2]])})
    return Merge(recipe, table, seed=3)


def describe(study: Study) -> object:
    """The whole state of a study, comparable with ==."""
    entries = [_describe_entry(entry) for entry in (*study.entries.values(), *study.parts.values())]
    told = [entry.trial.number for entry in study.told]
    pending = [trial.number for trial in study.pending]
    events = [(kind, dict(data)) for kind, data in study.events if kind != "opened"]
    return entries, told, pending, events, dict(study.configuration), dict(study.environment), study.next_number


def _describe_entry(entry: Entry) -> object:
    point = None if entry.trial.x is None else entry.trial.x.tobytes()
    merge = entry.trial.merge
    asked = (entry.trial.number, point, entry.trial.label, entry.trial.split, entry.trial.seed)
    part = (entry.trial.examples, entry.trial.extends, entry.trial.gradient, entry.trial.cost)
    table = None if merge is None else (merge.recipe.fingerprint, repr(merge.table.values), merge.seed)
    if entry.outcome is None:
        return asked, part, table
    scores = [
        (task, s.example_ids, _bytes(s.values, s.metric, *(s.choices or ())), s.truncated, s.accepted)
        for task, s in entry.outcome.scores.items()
    ]
    told = (entry.losses, entry.told_at, entry.outcome.failure, dict(entry.outcome.seconds), scores)
    return asked, part, table, told, _bytes(entry.outcome.gradient)


def _bytes(*arrays: FloatArray | None) -> list[bytes]:
    return [b"" if array is None else array.tobytes() for array in arrays]


class StudyContract:
    def test_everything_comes_back_from_the_folder(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        study.ask(trial(0, x=None, merge=baseline(), label="parent:add", split="select"))
        study.ask(trial(1))
        study.ask(trial(2))
        assert study.tell(outcome(1), [0.1 + 0.2, -0.0])
        assert study.tell(failed(0), None)
        study.event("canary", ok=True)
        for other in (study_type.read(tmp_path), self.reopened(study, study_type, tmp_path)):
            assert describe(other) == describe(study)
        assert dict(study.configuration) == CONFIGURATION
        assert dict(study.environment) == ENVIRONMENT
        entry = study_type.read(tmp_path).entries[1]
        assert entry.trial.x is not None
        assert entry.outcome is not None
        assert entry.trial.x.tobytes() == np.array([1 / 7, 1 / 3, 0.1 + 0.2]).tobytes()
        assert np.array(entry.losses).tobytes() == np.array([0.1 + 0.2, -0.0]).tobytes()
        scores = entry.outcome.scores["add"]
        np.testing.assert_array_equal(scores.values, [np.nan, -1 / 3, np.inf])
        assert scores.choices is not None
        np.testing.assert_array_equal(scores.choices[1], np.float32([-2.46913578, -np.inf]))
        assert scores.truncated == 2
        assert study_type.read(tmp_path).entries[0].trial.merge == baseline()
        assert study_type.read(tmp_path).entries[0].outcome is not None

    def test_accepted_texts_survive_and_take_no_space_where_there_are_none(
        self, study_type: type[Study], tmp_path: Path
    ) -> None:
        texts = (" 7\n", None, "schön \u2603</s>")
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        for number, accepted in enumerate((None, texts)):
            study.ask(trial(number))
            scores = replace(outcome(number).scores["add"], accepted=accepted)
            study.tell(outcome(number).changed(scores={"add": scores}), [1.0])
        study.close()
        found = [entry.outcome.scores["add"].accepted for entry in study_type.read(tmp_path).told if entry.outcome]
        assert found == [None, texts]
        assert (tmp_path / "ledger.jsonl").read_text().count('"accepted"') == 1

    def test_an_ask_is_in_the_folder_when_it_returns(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        study.ask(trial(4))
        assert [pending.number for pending in study_type.read(tmp_path).pending] == [4]
        study.tell(outcome(4), [1.0])
        assert [entry.trial.number for entry in study_type.read(tmp_path).told] == [4]
        study.close()

    def test_told_in_telling_order_pending_in_asking_order(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        for number in (5, 3, 8, 1):
            study.ask(trial(number))
        study.tell(outcome(8), [1.0])
        study.tell(outcome(5), [0.0])
        assert [(entry.trial.number, entry.told_at) for entry in study.told] == [(8, 0), (5, 1)]
        assert [pending.number for pending in study.pending] == [3, 1]
        assert study.next_number == 9
        assert list(study.entries) == [5, 3, 8, 1]
        study.close()

    def test_a_second_outcome_is_noted_and_ignored(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        study.ask(trial(0))
        assert study.tell(outcome(0), [1.0])
        assert not study.tell(failed(0), None)
        assert study.entries[0].losses == (1.0,)
        assert len(study.told) == 1
        assert study.events[-1] == ("duplicate", {"number": 0, "worker": ""})
        study.close()

    def test_outcomes_bring_their_events(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        study.ask(trial(0))
        study.tell(outcome(0), [1.0])
        assert study_type.read(tmp_path).events == [("worker_died", {"trial": 0, "attempt": 1})]
        study.close()

    def test_misuse_is_refused_and_changes_nothing(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        study.ask(trial(0))
        before = describe(study)
        with pytest.raises(StudyError, match="never asked"):
            study.tell(outcome(1), [1.0])
        with pytest.raises(StudyError, match="asked before"):
            study.ask(trial(0))
        for losses in ([float("nan")], [1.0, float("inf")]):
            with pytest.raises(StudyError, match="finite"):
                study.tell(outcome(0), losses)
        with pytest.raises(StudyError, match="a failure and"):
            study.tell(failed(0), [1.0])
        with pytest.raises(StudyError, match="told"):
            study.event("told")
        with pytest.raises(StudyError, match="plain data"):
            study.event("odd", value=object())
        assert describe(study) == before == describe(study_type.read(tmp_path))
        study.close()
        with pytest.raises(StudyError, match="closed"):
            study.ask(trial(1))

    def test_one_writer_any_number_of_readers(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        with pytest.raises(StudyBusy, match="process"):
            study_type.open(tmp_path)
        reader = study_type.read(tmp_path)
        with pytest.raises(StudyError, match="reading only"):
            reader.ask(trial(0))
        study.ask(trial(0))
        study.close()
        study.close()
        study_type.open(tmp_path).close()

    def test_refuses_another_configuration(self, study_type: type[Study], tmp_path: Path) -> None:
        study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT).close()
        before = describe(study_type.read(tmp_path))
        with pytest.raises(ConfigurationChanged) as caught:
            study_type.open(tmp_path, {"space": "uniform", "budget": {"trials": 6}, "seed": 0, "new": [1]})
        assert caught.value.differences == ("budget.trials: 5 -> 6", "new: (not there) -> [1]")
        assert describe(study_type.read(tmp_path)) == before
        study_type.open(tmp_path, CONFIGURATION).close()

    def test_never_begins_over_another_study(self, study_type: type[Study], tmp_path: Path) -> None:
        study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT).close()
        with pytest.raises(StudyExists):
            study_type.create(tmp_path, {}, {})
        assert dict(study_type.read(tmp_path).configuration) == CONFIGURATION
        for wrong in (study_type.open, study_type.read):
            with pytest.raises(StudyError, match="no study"):
                wrong(tmp_path / "nothing")

    def test_says_what_it_resumes(self, study_type: type[Study], tmp_path: Path) -> None:
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT)
        assert study.resumed is None
        for number in range(3):
            study.ask(trial(number))
        study.tell(outcome(1), [0.0])
        again = self.reopened(study, study_type, tmp_path)
        assert str(again.resumed).startswith(
            "1 completed, 2 re-queued. The last session ended unexpectedly while trials "
        )
        again.close()

    def test_active_time_adds_up_over_sessions(self, study_type: type[Study], tmp_path: Path) -> None:
        now = [1000.0]
        study = study_type.create(tmp_path, CONFIGURATION, ENVIRONMENT, clock=lambda: now[0])
        now[0] += 10
        study.ask(trial(0))
        assert study.active_seconds == 10
        study.close()
        now[0] = 3.0  # another boot, hours later
        study = study_type.open(tmp_path, clock=lambda: now[0])
        now[0] += 5
        study.event("paused")
        assert study.active_seconds == 15
        study.close()
        assert study_type.read(tmp_path).active_seconds == 15

    def reopened(self, study: Study, study_type: type[Study], folder: Path) -> Study:
        study.close()
        again = study_type.open(folder)
        again.close()
        return again
