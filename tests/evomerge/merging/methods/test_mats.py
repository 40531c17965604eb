from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.prepared import MergeError
from evomerge.merging.tiles import Moments
from tests.contracts.merge_method import MergeMethodContract, Statistics, fixed, merged
from tests.evomerge.merging.methods.informed import statistics
from tests.evomerge.merging.methods.test_regmean import G1, G2, W1, W2, layers, regmean


class TestMats(MergeMethodContract):
    name = "mats"
    # More iterations, short of the end, magnify the last bits: a thousand times in each ten here.
    values = fixed({"weight": [0.25, 0.5, 0.75], "iterations": 8})
    one_hot = None  # from another initial point, and with a tolerance, an input comes back in its first digits only

    def moments(self, model: str, tensors: Mapping[str, Tensor]) -> Moments | None:
        return statistics(model, tensors, "gram", "gram_out", "fisher")


@pytest.mark.slow
class TestKfac(TestMats):
    options = fixed({"objective": "kfac"})


@pytest.mark.slow
class TestFisherObjective(TestMats):
    options = fixed({"objective": "fisher", "initial": "base"})


@pytest.mark.slow
class TestFromTheAverage(TestMats):
    options = fixed({"objective": "kfac", "initial": "average"})
    one_hot = fixed({})
    averages = True


O1, O2 = torch.tensor([[1.0, 0.5], [0.5, 1.0]]), torch.diag(torch.tensor([2.0, 1.0]))


def mats(models: Sequence[Tensor], moments: Sequence[Mapping[str, Tensor]], iterations: float, **given: Any) -> Tensor:
    """Merge from a base of zeros unless another is given, to the last digit unless a tolerance is."""
    base = given.pop("base", torch.zeros_like(models[0]))
    values = {"weight": given.pop("weight", 1.0), "iterations": iterations, "scale": given.pop("scale", 0.3)}
    named = [Statistics({f"{kind}/x": moment for kind, moment in found.items()}) for found in moments]
    options = {"tolerance": 0.0, **given}
    return merged("mats", base, models, values, moments=[None, *named], options=options)


def test_worked_examples() -> None:
    given = [W1, W2], [{"gram": G1}, {"gram": G2}]
    for iterations, initial, expected in (
        (1, "base", [[1.317992, 0.790795], [0.527197, 1.317992]]),
        (2, "base", [[1.5, 0.5], [0.125, 1.625]]),
        (1, "average", [[1.5625, 0.354167], [0.208333, 1.5]]),
    ):
        result = mats(*given, iterations, initial=initial)
        torch.testing.assert_close(result, torch.tensor(expected), rtol=0, atol=2e-6)
    kfac = [{**found, "gram_out": grad} for found, grad in zip(given[1], (O1, O2), strict=True)]
    result = mats([W1, W2], kfac, 50, objective="kfac", tolerance=1e-12)
    torch.testing.assert_close(result, torch.tensor([[1.840237, 0.60355], [-0.213018, 1.497041]]), rtol=0, atol=2e-6)


def systems(seed: int, objective: str) -> tuple[list[Tensor], list[dict[str, Tensor]], Any]:
    """Three layers near each other, their statistics, and the operator of the equations in numpy, on (out, in)."""
    models, grams = layers(seed)
    random = np.random.default_rng(seed)
    rows = random.normal(size=(3, 30, 7)) * random.exponential(size=(3, 1, 7))
    grads = [torch.tensor(part.T @ part / 30, dtype=torch.float32) for part in rows]
    fishers = [torch.tensor(random.exponential(size=models[0].shape), dtype=torch.float32) for _ in models]
    moments = [{"gram": g, "gram_out": o, "fisher": f} for g, o, f in zip(grams, grads, fishers, strict=True)]
    terms = [{kind: moment.double().numpy() for kind, moment in found.items()} for found in moments]

    def operator(matrices: Sequence[Any]) -> Any:
        """The sum of what each term makes of its matrix."""
        if objective == "fisher":
            return sum(found["fisher"] * matrix for found, matrix in zip(terms, matrices, strict=True))
        writes = [found["gram_out"] if objective == "kfac" else np.eye(7) for found in terms]
        triples = zip(writes, matrices, terms, strict=True)
        return sum(o @ matrix @ found["gram"] for o, matrix, found in triples)

    return models, moments, operator


@pytest.mark.parametrize("objective", ["regmean", "kfac", "fisher"])
@pytest.mark.parametrize("iterations", [1, 3, 9])
def test_the_iterates_are_those_of_scipy(objective: str, iterations: int) -> None:
    """In weights, as published; here they run in deltas to the base."""
    models, moments, operator = systems(3, objective)
    base = models[0] - 0.1
    start = base + 0.3 * sum(model - base for model in models)
    matrices = [model.double().numpy() for model in models]
    linear = scipy.sparse.linalg.LinearOperator(
        (35, 35), matvec=lambda v: operator([v.reshape(7, 5)] * 3).ravel(), dtype=np.float64
    )
    expected, _ = scipy.sparse.linalg.cg(
        linear, operator(matrices).ravel(), x0=start.double().numpy().ravel(), maxiter=iterations, rtol=0
    )
    result = mats(models, moments, iterations, base=base, objective=objective)
    np.testing.assert_allclose(result.numpy().ravel(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("objective", ["regmean", "kfac", "fisher"])
def test_converged_it_is_the_solution_wherever_it_began(objective: str) -> None:
    models, moments, operator = systems(4, objective)
    results = [
        mats(models, moments, 500, base=models[0] + 0.1, objective=objective, initial=initial, tolerance=1e-12)
        for initial in ("task_arithmetic", "average", "base")
    ]
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])
    goal = operator([model.double().numpy() for model in models])
    assert np.abs(operator([results[0].double().numpy()] * 3) - goal).max() < 1e-4 * np.abs(goal).max()


def test_special_cases_equal_regmean_and_fisher() -> None:
    models, moments, _ = systems(5, "regmean")
    base, weight = models[0] + 0.1, [0.2, 0.9, 0.4]
    many: dict[str, Any] = {"weight": weight, "base": base, "tolerance": 1e-12}
    expected = regmean(models, [found["gram"] for found in moments], weight, base=base)
    torch.testing.assert_close(mats(models, moments, 500, **many), expected)
    no_gradients = [{**found, "gram_out": torch.eye(7)} for found in moments]
    torch.testing.assert_close(mats(models, no_gradients, 500, objective="kfac", **many), expected)
    named = [None, *(Statistics({"fisher/x": found["fisher"]}) for found in moments)]
    fisher = merged("fisher", base, models, {"weight": weight}, moments=named, options={"normalize": False})
    torch.testing.assert_close(mats(models, moments, 500, objective="fisher", **many), fisher)
    average = merged("linear", base, models, {"weight": weight})
    torch.testing.assert_close(mats(models, moments, 1, objective="average", **many), average)


def test_the_error_in_the_operators_norm_falls_with_every_iteration() -> None:
    models, moments, operator = systems(6, "kfac")
    solution = mats(models, moments, 500, objective="kfac", tolerance=1e-13).double().numpy()

    def error(iterations: int) -> float:
        gap = mats(models, moments, iterations, objective="kfac").double().numpy() - solution
        return float((gap * operator([gap] * 3)).sum())

    errors = [error(n) for n in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


def test_no_iterations_and_no_statistics_are_the_initial_merge() -> None:
    models, moments, _ = systems(7, "kfac")
    base = models[0] + 0.1
    start = merged("task_arithmetic", base, models, {"weight": [0.3] * 3})
    torch.testing.assert_close(mats(models, moments, 0, base=base), start)
    torch.testing.assert_close(mats(models, moments, 40, base=base, tolerance=1e9), start)
    elsewhere = [Statistics({"gram/y": torch.eye(5), "gram_out/y": torch.eye(7)}) for _ in models]
    kept = merged("mats", base, models, {}, moments=[None, *elsewhere], options={"objective": "kfac"})
    torch.testing.assert_close(kept, start)
    same = merged("mats", base, [models[0]] * 3, {}, moments=[None, *elsewhere], options={"initial": "average"})
    torch.testing.assert_close(same, models[0])


def test_invalid_statistics_and_options_are_errors() -> None:
    models, moments, _ = systems(8, "kfac")
    without = [{kind: found[kind] for kind in ("gram", "fisher")} for found in moments]
    with pytest.raises(MethodError, match=r"objective kfac needs the statistics 'gram_out' of math: .*gram,gram_out"):
        mats(models, without, 3, objective="kfac")
    with pytest.raises(MergeError, match=r"mats needs the statistics 'gram\|fisher' of every input"):
        merged("mats", models[0], models, {})
    with pytest.raises(MethodError, match="non-negative weights"):
        mats(models, moments, 3, weight=(0, 0, 0))
    with pytest.raises(MethodError, match="tolerance must be 0 or more"):
        mats(models, moments, 3, tolerance=-1.0)
