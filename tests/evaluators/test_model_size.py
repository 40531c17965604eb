from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from evaluators.base import Evaluator, EvaluatorError
from evaluators.model_size import ModelSize
from tests.contracts.evaluator import EvaluatorContract


@dataclass(frozen=True)
class Bare:
    """Weights without a network: two tensors, one of them under two names, and one of another dtype."""

    tensors: dict[str, torch.Tensor]


def bare(*values: float) -> Bare:
    shared = torch.tensor(values)
    return Bare({"a": shared, "tied": shared, "b": torch.tensor([1.0, 0.0], dtype=torch.bfloat16)})


class TestModelSize(EvaluatorContract):
    @pytest.fixture(params=["bytes", "parameters"])
    def build(self, request: pytest.FixtureRequest) -> Callable[[], Evaluator]:
        return lambda: ModelSize(unit=request.param)

    @pytest.fixture
    def model(self) -> Any:
        return bare(1.0, 0.0, -2.0)

    @pytest.fixture
    def other_model(self) -> Any:
        return bare(1.0, 0.0, 0.0)

    @pytest.fixture
    def broken_model(self) -> Any:
        return bare(1.0, float("nan"), 0.0)


def test_counts_what_is_not_zero_in_its_own_type_and_once() -> None:
    assert ModelSize().score(bare(1.0, 0.0, -2.0)).values.tolist() == [2 * 4 + 1 * 2]
    assert ModelSize(unit="parameters").score(bare(1.0, 0.0, -2.0)).values.tolist() == [3]


def test_less_is_better_and_it_is_one_value() -> None:
    assert not ModelSize.higher_is_better
    assert ModelSize.whole_model


def test_another_unit_is_refused() -> None:
    with pytest.raises(EvaluatorError, match="unit is 'megabytes'; expected one of bytes, parameters"):
        ModelSize(unit="megabytes")  # type: ignore[arg-type]
