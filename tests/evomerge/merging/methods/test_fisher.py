from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.prepared import MergeError
from evomerge.merging.tiles import Moments
from tests.contracts.merge_method import (
    NAMES,
    MergeMethodContract,
    Statistics,
    fixed,
    make_engine,
    make_merge,
    merged,
    random_models,
)
from tests.evomerge.merging.methods.informed import statistics
from tests.evomerge.merging.vectors import check


class TestFisher(MergeMethodContract):
    name = "fisher"
    values = fixed({"weight": [0.25, 0.5, 0.75]})
    averages = True
    hull = True
    local = False  # each model's Fisher information is divided by its norm over the whole model

    def moments(self, model: str, tensors: Mapping[str, Tensor]) -> Moments | None:
        return statistics(model, tensors, "fisher")


@pytest.mark.slow
class TestUnnormalized(TestFisher):
    options = fixed({"normalize": False, "compat": "mergelm", "floor": 0.1})
    local = True


@pytest.mark.slow
class TestTarget(TestFisher):
    options = fixed({"target": "code", "relative_floor": True})


THETAS = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0]))


def fisher(
    moments: Sequence[Sequence[float]], weight: Any = (0.5, 0.5), models: Any = THETAS, **options: Any
) -> Tensor:
    given = [Statistics({"fisher/x": torch.tensor(values, dtype=torch.float32)}) for values in moments]
    base = torch.zeros_like(models[0])
    values = {"weight": list(weight)}
    return merged("fisher", base, models, values, moments=[None, *given], options=options)


@pytest.mark.parametrize("compat", ["official", "mergelm"])
def test_worked_examples(compat: str) -> None:
    check(fisher([[1, 3], [3, 1]], compat=compat), [2.5, 3.0])
    check(fisher([[2, 6], [3, 1]], compat=compat), [2.5, 3.0])
    check(fisher([[2, 6], [3, 1]], compat=compat, normalize=False), [2.2, 2.571429])
    check(fisher([[1, 3], [3, 1]], (2, 1), compat=compat), [2.2, 2.571429])
    check(fisher([[0, 0], [0, 0]], compat=compat), [2, 4])


def test_the_floor_by_each_convention() -> None:
    low = [[0.0, 3.0], [0.5, 1.0]]
    taken = fisher(low, normalize=False, floor=1.0)
    torch.testing.assert_close(taken, torch.tensor([2.0, (3 * 2 + 6) / 4]))
    added = fisher(low, normalize=False, floor=1.0, compat="mergelm")
    torch.testing.assert_close(added, torch.tensor([(1 + 1.5 * 3) / 2.5, (4 * 2 + 2 * 6) / 6]))
    relative = fisher(low, normalize=False, floor=0.5, relative_floor=True)
    # The means are 1.5 and 0.75.
    torch.testing.assert_close(relative, torch.tensor([(0.75 * 1 + 0.5 * 3) / 1.25, (3 * 2 + 6) / 4]))


def test_only_the_target_has_a_floor() -> None:
    unknown = [[0.0, 0.0], [0.0, 1.0]]
    assert torch.equal(fisher(unknown, target=NAMES[0], normalize=False), torch.tensor([1.0, 6.0 - 4e-6]))
    assert torch.equal(fisher(unknown, target=NAMES[1], normalize=False), torch.tensor([3.0, 6.0]))
    # A target that takes no part leaves nobody with a floor: then everybody has one.
    assert torch.equal(fisher([[0, 0], [0, 0]], (0, 1), target=NAMES[0]), THETAS[1])


def test_tiny_information_counts_when_the_floor_is_relative() -> None:
    """Gradients of language models: far below the published floor, where everything is a plain average."""
    tiny = [[1e-22, 3e-22], [3e-22, 1e-22]]
    torch.testing.assert_close(fisher(tiny), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(fisher(tiny, relative_floor=True), torch.tensor([2.5, 3.0]))
    # A norm whose inverse no float32 holds.
    assert torch.equal(fisher([[1e-44, 0], [0, 1e-44]]), torch.tensor([2.0, 4.0]))


def test_the_norm_is_that_of_the_whole_model() -> None:
    models = [{"x": torch.tensor([float(n)]), "y": torch.tensor([float(-n)])} for n in (0, 1, 2)]
    given = [
        Statistics({"fisher/x": torch.tensor([3.0]), "fisher/y": torch.tensor([4.0])}),
        Statistics({"fisher/x": torch.tensor([5.0]), "fisher/y": torch.tensor([12.0])}),
    ]
    engine = make_engine(models[0], models[1:], moments=[None, *given])
    merge = make_merge("fisher", 2, {"weight": [1.0, 1.0]})
    result = dict(engine.stream(merge))
    # The norms are 5 and 13.
    torch.testing.assert_close(result["x"], torch.tensor([(3 / 5 + 2 * 5 / 13) / (3 / 5 + 5 / 13)]))
    torch.testing.assert_close(result["y"], torch.tensor([-(4 / 5 + 2 * 12 / 13) / (4 / 5 + 12 / 13)]))
    # Without information about y, y is averaged.
    for moment in given:
        del moment["fisher/y"]
    given[1]["fisher/x"] = torch.tensor([3.0])
    result = dict(engine.stream(make_merge("fisher", 2, {"weight": [1.0, 3.0]}, options={"normalize": False})))
    torch.testing.assert_close(result["x"], torch.tensor([1.75]))
    torch.testing.assert_close(result["y"], torch.tensor([-1.75]))


def test_equal_information_is_the_weighted_average() -> None:
    base, *inputs = random_models(4, 3, torch.float32)
    moment = statistics("same", {"x": base}, "fisher")
    values = {"weight": [0.2, 0.7, 0.4]}
    result = merged("fisher", base, inputs, values, moments=[None, moment, moment, moment])
    torch.testing.assert_close(result, merged("linear", base, inputs, values))


def test_invalid_statistics_weights_and_floors_are_errors() -> None:
    for weight in ((0, 0), (-0.5, 1)):
        with pytest.raises(MethodError, match="non-negative weights"):
            fisher([[1, 3], [3, 1]], weight)
    with pytest.raises(MethodError, match="positive floor"):
        fisher([[1, 3], [3, 1]], floor=0.0)
    with pytest.raises(MethodError, match=r"'fisher' of code has shape \(3,\), expected \(2,\)"):
        fisher([[1, 3], [3, 1, 2]])
    with pytest.raises(MethodError, match="of code is not finite"):
        fisher([[1, 3], [3, float("nan")]])
    with pytest.raises(MergeError, match="needs the statistics 'fisher' of every input, and 'math' has none"):
        merged("fisher", THETAS[0], THETAS, {"weight": [0.5, 0.5]})
    moments = [None, Statistics({"fisher/x": THETAS[0]}), Statistics({"fisher/y": THETAS[0]})]
    with pytest.raises(MethodError, match="math have the statistic 'fisher', code do not"):
        merged("fisher", THETAS[0] - 1, THETAS, {"weight": [0.5, 0.5]}, moments=moments)
