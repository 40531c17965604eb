from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from torch import Tensor

from evomerge.merging.method import Bounds, MergeMethod, MethodError, PerInput, Shared, merge_method
from search_spaces.base import Parameter

NAMES = ("math", "code")
Weight = Annotated[PerInput, Bounds(1.0, 0.0, 2.0, allowed=(0.0, 5.0))]


def _prepare(_source: Any, *, t: Annotated[Shared, Bounds(0.5, 0.0, 1.0)], mode: Literal["a", "b"] = "a") -> float:
    return t if mode == "a" else -t


@merge_method(operates_on="deltas", reference="https://example.org", prepare=_prepare, min_inputs=2, max_inputs=2)
def example(
    deltas: Sequence[Tensor], *, weight: Weight, steps: int = 3, rate: float = 0.5, keep: bool = True, prepared: float
) -> Tensor:
    """Nothing of use."""
    return deltas[0] * weight[0] * steps * rate * keep * prepared


def test_the_signatures_declare_parameters_and_options() -> None:
    assert isinstance(example, MergeMethod)
    assert example.name == "example"
    assert example.parameters == (Parameter("weight", 1.0, 0.0, 2.0, True), Parameter("t", 0.5, 0.0, 1.0, False))
    assert example.options == {"steps": 3, "rate": 0.5, "keep": True, "mode": "a"}
    assert example.kernel_takes == {"weight", "steps", "rate", "keep", "prepared"}
    assert example.prepare_takes == {"t", "mode"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 3), ("rate", 1), ("rate", 0.25), ("keep", False), ("mode", "b")],
)
def test_options_that_fit(option: str, value: Any) -> None:
    example.check({option: value}, 2)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("steps", 3.0, "steps must be a whole number; it is 3.0"),
        ("steps", True, "steps must be a whole number; it is True"),
        ("rate", "1", "rate must be a finite number; it is '1'"),
        ("rate", float("nan"), "rate must be a finite number; it is nan"),
        ("keep", 1, "keep must be true or false; it is 1"),
        ("mode", "c", "mode must be one of 'a', 'b'; it is 'c'"),
        ("stepz", 3, "no option 'stepz'. Did you mean 'steps'? It has steps, rate, keep, mode."),
    ],
)
def test_options_that_do_not_fit(option: str, value: Any, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        example.check({option: value}, 2)
    assert message in str(caught.value)


@pytest.mark.parametrize("n_inputs", [1, 3])
def test_number_of_inputs(n_inputs: int) -> None:
    with pytest.raises(MethodError, match=rf"example merges exactly 2 model.*got {n_inputs}"):
        example.check({}, n_inputs)


def test_arguments_from_a_row_of_a_table() -> None:
    row = {"weight": np.array([0.25, 2.5])}
    assert example.arguments(row, NAMES) == {"weight": (0.25, 2.5), "t": 0.5}
    assert example.arguments({"t": np.array([0.75])}, NAMES) == {"weight": (1.0, 1.0), "t": 0.75}
    assert example.arguments({"weight": np.array([0.3])}, NAMES)["weight"] == (0.3, 0.3), "one value counts for all"
    with pytest.raises(MethodError, match=r"weight needs 2 value\(s\) per group; it has 3"):
        example.arguments({"weight": np.ones(3)}, NAMES)
    with pytest.raises(MethodError, match="no parameter 'wait'"):
        example.arguments({"wait": np.ones(2)}, NAMES)


@pytest.mark.parametrize(
    ("row", "group", "message", "place"),
    [
        (
            {"weight": [1.0, 7.5]},
            "all",
            "weight of 'code' must lie between 0 and 5; it is 7.5",
            ("weight", "all", "code"),
        ),
        ({"weight": [-1.0]}, "norm", "weight of 'math' in group 'norm' must lie", ("weight", "norm", "math")),
        ({"wait": [1.0]}, "norm", "no parameter 'wait'. Did you mean 'weight'? It has weight, t.", ("wait",)),
        ({"t": [1.0, 2.0]}, "norm", "t needs 1 value(s)", ("t",)),
    ],
)
def test_invalid_coefficients_are_errors_with_their_place(
    row: dict[str, Any], group: str, message: str, place: tuple[str, ...]
) -> None:
    with pytest.raises(MethodError) as caught:
        example.arguments({name: np.array(values) for name, values in row.items()}, NAMES, group)
    assert message in str(caught.value)
    assert caught.value.place == ("coefficients", *place)


def _misnamed(weights: Sequence[Tensor]) -> Tensor:
    return weights[0]


def _without_default(deltas: Sequence[Tensor], *, steps: int) -> Tensor:
    return deltas[0] * steps


def _wrong_default(deltas: Sequence[Tensor], *, steps: int = 0.5) -> Tensor:  # type: ignore[assignment]
    return deltas[0] * steps


def _without_bounds(deltas: Sequence[Tensor], *, weight: Annotated[PerInput, 3]) -> Tensor:
    return deltas[0] * weight[0]


def _other_bounds(deltas: Sequence[Tensor], *, t: Annotated[Shared, Bounds(0.0, 0.0, 1.0)]) -> Tensor:
    return deltas[0] * t


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (_misnamed, "rename its first argument 'weights'"),
        (_without_default, "steps is neither a parameter"),
        (_wrong_default, "steps is neither a parameter"),
        (_without_bounds, "weight must be Annotated"),
        (_other_bounds, "t is declared twice with different values"),
    ],
)
def test_signatures_that_cannot_be_a_method(kernel: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        merge_method(operates_on="deltas", reference="https://example.org", prepare=_prepare)(kernel)
