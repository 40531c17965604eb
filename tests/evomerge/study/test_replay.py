"""Whatever is done to a study, the replay of its ledger is the state that it had in memory."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evomerge.study import Study
from evomerge.study.lines import FILE
from tests.contracts.study import Unsynced, baseline, describe, failed, outcome, trial


class StudyMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.study = Study.create(self.folder, {"a": 1}, {}, files=Unsynced())
        self.told: list[int] = []

    def teardown(self) -> None:
        self.study.close()
        shutil.rmtree(self.folder)

    @rule(gap=st.integers(0, 3))
    def ask(self, gap: int) -> None:
        self.study.ask(trial(self.study.next_number + gap))

    @rule()
    def ask_baseline(self) -> None:
        self.study.ask(trial(self.study.next_number, x=None, merge=baseline(), label="parent:add"))

    @precondition(lambda self: self.study.pending)
    @rule(data=st.data(), losses=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3))
    def tell(self, data: st.DataObject, losses: list[float]) -> None:
        number = data.draw(st.sampled_from([pending.number for pending in self.study.pending]))
        assert self.study.tell(outcome(number, data.draw(st.integers(3, 5))), losses)
        self.told.append(number)
        assert self.study.told[-1].losses == tuple(losses)

    @precondition(lambda self: self.study.pending)
    @rule()
    def tell_failure(self) -> None:
        number = self.study.pending[0].number
        assert self.study.tell(failed(number), None)
        self.told.append(number)

    @precondition(lambda self: self.told)
    @rule()
    def tell_again(self) -> None:
        assert not self.study.tell(outcome(self.told[0]), [5.0])

    @rule(text=st.text(max_size=5))
    def event(self, text: str) -> None:
        self.study.event("note", text=text)

    @rule(torn=st.binary(max_size=30))
    def crash(self, torn: bytes) -> None:
        self.study.close()
        with (self.folder / FILE).open("ab") as file:
            file.write(torn)
        self.study = Study.open(self.folder, {"a": 1}, files=Unsynced())

    @invariant()
    def replay_is_memory(self) -> None:
        assert describe(Study.read(self.folder)) == describe(self.study)
        assert [entry.trial.number for entry in self.study.told] == self.told


TestStudyMachine = StudyMachine.TestCase
TestStudyMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None, derandomize=True)
