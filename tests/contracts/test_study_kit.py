"""The kit must fail broken studies: each of these keeps the contract but for one thing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.study import Study
from evomerge.study.writer import Files
from evomerge.trial import Outcome, Trial
from tests.contracts.study import StudyContract


class LateAsk(Study):
    """Remembers an ask and writes it with the outcome."""

    def ask(self, trial: Trial) -> None:
        self.__dict__.setdefault("late", {})[trial.number] = trial

    def tell(self, outcome: Outcome, losses: Sequence[float] | None) -> bool:
        if outcome.number in self.__dict__.get("late", {}):
            super().ask(self.__dict__["late"].pop(outcome.number))
        return super().tell(outcome, losses)


class SinglePrecision(Study):
    def ask(self, trial: Trial) -> None:
        rounded = None if trial.x is None else trial.x.astype(np.float32).astype(np.float64)
        super().ask(trial.changed(x=rounded))


class NoScoresAreZero(Study):
    def tell(self, outcome: Outcome, losses: Sequence[float] | None) -> bool:
        scores = {task: replace(s, values=np.nan_to_num(s.values)) for task, s in outcome.scores.items()}
        return super().tell(outcome.changed(scores=scores), losses)


class LastOutcomeWins(Study):
    def tell(self, outcome: Outcome, losses: Sequence[float] | None) -> bool:
        return super().tell(outcome, losses) or True


class AnyConfiguration(Study):
    @classmethod
    def open(
        cls,
        folder: Path,
        configuration: Mapping[str, Any] | None = None,
        *,
        files: Files | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> "Study":
        return super().open(folder, files=files, clock=clock)


class BeginsAnew(Study):
    @classmethod
    def create(
        cls,
        folder: Path,
        configuration: Mapping[str, Any],
        environment: Mapping[str, Any],
        *,
        files: Files | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> "Study":
        (folder / "ledger.jsonl").unlink(missing_ok=True)
        return super().create(folder, configuration, environment, files=files, clock=clock)


class AskedOrder(Study):
    @property
    def pending(self) -> list[Trial]:
        return sorted(super().pending, key=lambda trial: trial.number)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (LateAsk, "test_an_ask_is_in_the_folder_when_it_returns"),
        (SinglePrecision, "test_everything_comes_back_from_the_folder"),
        (NoScoresAreZero, "test_everything_comes_back_from_the_folder"),
        (LastOutcomeWins, "test_a_second_outcome_is_noted_and_ignored"),
        (AnyConfiguration, "test_refuses_another_configuration"),
        (BeginsAnew, "test_never_begins_over_another_study"),
        (AskedOrder, "test_told_in_telling_order_pending_in_asking_order"),
    ],
)
def test_the_kit_fails_a_broken_study(broken: type[Study], check: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(StudyContract(), check)(broken, tmp_path)
    getattr(StudyContract(), check)(Study, tmp_path / "sound")
