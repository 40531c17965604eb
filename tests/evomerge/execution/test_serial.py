import pytest

from evomerge.execution.serial import SerialExecutor
from evomerge.trial import Outcome, Trial
from tests.contracts.executor import ExecutorContract, Make, SmallBench, trial


class TestSerialExecutor(ExecutorContract):
    @pytest.fixture
    def make(self) -> Make:
        return SerialExecutor  # type: ignore[return-value]

    def test_an_interrupted_trial_stays_submitted(self) -> None:
        interrupts = [KeyboardInterrupt()]

        class Interrupted(SmallBench):
            def run(self, trial: Trial) -> Outcome:
                if interrupts:
                    raise interrupts.pop()
                return super().run(trial)

        executor = SerialExecutor(Interrupted)
        executor.submit(trial(3))
        with pytest.raises(KeyboardInterrupt):
            executor.next_outcome()
        outcome = executor.next_outcome()
        assert outcome is not None
        assert outcome.number == 3
