from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluators.base import Evaluator, EvaluatorError
from evaluators.latency import Latency
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, write_lines


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "prompts.jsonl", [{"prompt": f"Say {i}"} for i in range(4)])


class TestLatency(EvaluatorContract):
    not_repeatable = "a time is never the same twice"

    @pytest.fixture
    def build(self, prompts: Path) -> Callable[[], Evaluator]:
        return lambda: Latency(file=str(prompts), max_new_tokens=4)


class Clock:
    """A clock that stands still but for what a test adds."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def slowed(model: TinyModel, calls: list[int], clock: Clock) -> TinyModel:
    """The same model; its call number n of `generate` takes 0.5 s when n is among `calls`, else 0.125 s."""

    class Slow:
        def __init__(self) -> None:
            self.count = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(model.network, name)

        def generate(self, **arguments: Any) -> Any:
            self.count += 1
            clock.now += 0.5 if self.count in calls else 0.125
            return model.network.generate(**arguments)

    return TinyModel(Slow(), model.tokenizer, model.folder)


@pytest.mark.parametrize(
    ("calls", "slow"),
    [
        ([1], False),  # the warm-up is not timed
        ([2], False),  # one of three repeats is no median
        ([2, 4], True),
    ],
)
def test_the_median_after_a_warm_up(
    model: TinyModel, prompts: Path, calls: list[int], slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("evaluators.latency.time", clock)
    evaluator = Latency(file=str(prompts), max_new_tokens=1, limit=1)
    evaluator.score(model)
    (seconds,) = evaluator.score(slowed(model, calls, clock)).values
    assert seconds == (0.5 if slow else 0.125)


def test_less_is_better() -> None:
    assert not Latency.higher_is_better


def test_repeats_must_be_some(prompts: Path) -> None:
    with pytest.raises(EvaluatorError, match="repeats is 0, warm_up 1; expected at least 1 and 0"):
        Latency(file=str(prompts), repeats=0)
