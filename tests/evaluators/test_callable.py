import math
from collections.abc import Callable as Function
from pathlib import Path
from typing import Any

import pytest

from evaluators.base import Evaluator, EvaluatorError
from evaluators.callable import Callable
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel

EXAMPLES = ["one", "two", "three", "four"]


def _weight(model: TinyModel) -> float:
    return float(model.tensors["model.norm.weight"].sum() + model.tensors["lm_head.weight"].sum())


def by_ids(model: TinyModel, ids: tuple[str, ...], scale: float = 1.0) -> list[float]:
    return [scale * len(example) * _weight(model) for example in ids]


def all_of_them(model: TinyModel) -> list[float]:
    return [i + _weight(model) for i in range(4)]


def some(model: TinyModel) -> dict[str, float]:
    return {"three": 3.0, "one": 1.0}


def one_number(model: TinyModel) -> float:
    return 0.25


def unknown(model: TinyModel) -> dict[str, float]:
    return {"five": 1.0}


def words(model: TinyModel) -> list[str]:
    return EXAMPLES


def _named(function: Function[..., Any]) -> str:
    return f"{__name__}:{function.__name__}"


class TestCallable(EvaluatorContract):
    @pytest.fixture(params=[by_ids, all_of_them])
    def build(self, request: pytest.FixtureRequest) -> Function[[], Evaluator]:
        return lambda: Callable(function=_named(request.param), examples=EXAMPLES)


def test_options_go_to_the_function(model: TinyModel) -> None:
    double = Callable(function=_named(by_ids), examples=EXAMPLES, scale=2.0).score(model)
    assert double.mean == pytest.approx(2 * Callable(function=_named(by_ids), examples=EXAMPLES).score(model).mean)


def test_a_mapping_leaves_the_rest_unscored(model: TinyModel) -> None:
    values = Callable(function=_named(some), examples=EXAMPLES).score(model).values.tolist()
    assert values[0] == 1.0
    assert values[2] == 3.0
    assert math.isnan(values[1])
    assert math.isnan(values[3])


def test_one_number_is_one_example(model: TinyModel) -> None:
    evaluator = Callable(function=_named(one_number), higher_is_better=False)
    assert evaluator.score(model).values.tolist() == [0.25]
    assert evaluator.higher_is_better is False


def test_examples_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("one\n\ntwo\n")
    assert Callable(function=_named(by_ids), examples=str(tmp_path / "ids.txt")).example_ids == ("one", "two")


@pytest.mark.parametrize(
    ("function", "message"),
    [(one_number, "values of shape"), (unknown, "'five', which is not an example"), (words, "expected numbers")],
)
def test_other_returns_are_refused(model: TinyModel, function: Function[..., Any], message: str) -> None:
    with pytest.raises(EvaluatorError, match=message):
        Callable(function=_named(function), examples=EXAMPLES).score(model)


@pytest.mark.parametrize("name", ["nowhere", "nowhere:at_all", "math:pi", "math:nothing", ":x"])
def test_a_function_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(EvaluatorError, match="function is"):
        Callable(function=name)


def test_examples_must_differ() -> None:
    with pytest.raises(EvaluatorError, match="2 examples, 1 of them distinct"):
        Callable(function=_named(by_ids), examples=["one", "one"])


def toned(model: Any, ids: tuple[str, ...], tone: str, loud: bool = False) -> list[float]:
    return [float(loud) for _ in ids]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tone": "plain", "laud": True}, r"no parameter 'laud'; options are tone, loud, .* Did you mean 'loud'\?"),
        ({"tone": "plain", "exampels": []}, r"'exampels'.* Did you mean 'examples'\?"),
        ({"loud": True}, "needs 'tone'"),
    ],
)
def test_options_that_the_function_does_not_take_or_lacks_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluatorError, match=message):
        Callable(function=_named(toned), examples=EXAMPLES, **options)


@pytest.mark.fault("F15", "a function returns a value outside of its declared range", "an error with example and range")
def test_values_outside_of_the_range_are_an_error_and_missing_ones_are_not(model: TinyModel) -> None:
    def build(low: float, high: float) -> Callable:
        return Callable(function=_named(some), examples=EXAMPLES, score_range=[low, high])

    assert build(1, 3).score(model).values.tolist()[::2] == [1.0, 3.0]
    with pytest.raises(
        EvaluatorError, match=r"returned 3 for 'three', and 1 of 4 values outside of score_range: \[0, 2"
    ):
        build(0, 2).score(model)
    with pytest.raises(EvaluatorError, match="returned 1 for 'one'"):
        build(2, 3).score(model)


@pytest.mark.parametrize("given", [[1], [1, 0], ["a", "b"], 3, [0, float("nan")]])
def test_a_range_is_two_numbers(given: Any) -> None:
    with pytest.raises(EvaluatorError, match=r"score_range is .*; expected the smallest and the largest value"):
        Callable(function=_named(some), examples=EXAMPLES, score_range=given)
