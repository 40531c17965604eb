import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from evaluators.base import Evaluator, EvaluatorError, FloatArray
from evaluators.synthetic import Synthetic
from tests.contracts.evaluator import EvaluatorContract


@dataclass(frozen=True)
class Coefficients:
    coefficients: Mapping[str, FloatArray]
    tensors: Mapping[str, Any] = field(default_factory=dict)


def _candidate(value: float) -> Coefficients:
    return Coefficients({"weight": np.full((3, 2), value), "density": np.full((3, 1), 0.5)})


class TestSynthetic(EvaluatorContract):
    @pytest.fixture(params=["none", "binomial"])
    def build(self, request: pytest.FixtureRequest) -> Callable[[], Evaluator]:
        return lambda: Synthetic(noise=request.param)

    @pytest.fixture
    def model(self) -> Coefficients:
        return _candidate(0.4)

    @pytest.fixture
    def other_model(self) -> Coefficients:
        return _candidate(-1.5)

    @pytest.fixture
    def broken_model(self) -> Coefficients:
        return _candidate(float("nan"))


def test_the_optimum_has_quality_one_and_nothing_better_exists() -> None:
    evaluator = Synthetic(seed=3)
    best = {name: evaluator.optimum(name, shape) for name, shape in (("weight", (3, 2)), ("density", (3, 1)))}
    assert evaluator.quality(Coefficients(best)) == 1.0
    off = {**best, "density": best["density"] + 0.3}
    assert evaluator.quality(Coefficients(off)) == pytest.approx(np.exp(-4.0 * 0.3**2 * 3 / 9))


def test_graded_values_have_the_quality_as_their_mean_but_are_not_all_alike() -> None:
    scores = Synthetic(noise="none").score(_candidate(0.2))
    assert scores.mean == pytest.approx(Synthetic().quality(_candidate(0.2)), abs=1e-12)
    assert len(set(scores.values.tolist())) == len(scores.values)


def test_binomial_values_are_zero_or_one_and_approach_the_quality() -> None:
    evaluator = Synthetic(noise="binomial", n_examples=4000)
    scores = evaluator.score(_candidate(0.2))
    assert set(scores.values.tolist()) == {0.0, 1.0}
    assert scores.mean == pytest.approx(evaluator.quality(_candidate(0.2)), abs=0.03)


def test_tasks_and_seeds_disagree_about_the_optimum_within_the_range() -> None:
    optima = [
        Synthetic(task=task, seed=seed, low=2.0, high=3.0).optimum("weight", (40, 2))
        for task, seed in ((0, 0), (1, 0), (0, 1))
    ]
    for optimum in optima:
        assert optimum.min() >= 2.0
        assert optimum.max() <= 3.0
    assert abs(optima[0] - optima[1]).mean() > 0.1
    assert abs(optima[0] - optima[2]).mean() > 0.1


def test_the_share_of_failures_is_as_asked_and_the_same_candidates_fail_again() -> None:
    evaluator = Synthetic(fail=0.3, n_examples=1)

    def fails(value: float) -> bool:
        try:
            evaluator.score(_candidate(value))
        except EvaluatorError:
            return True
        return False

    failed = [fails(i / 200) for i in range(200)]
    assert 40 <= sum(failed) <= 80
    assert failed == [fails(i / 200) for i in range(200)]


def test_a_model_without_coefficients_is_refused() -> None:
    with pytest.raises(EvaluatorError, match="no coefficients"):
        Synthetic().score(Coefficients({}))


def test_needs_numpy_only_and_numbers_do_not_depend_on_the_hash_seed() -> None:
    program = (
        "import sys; from evaluators.synthetic import Synthetic; s = Synthetic(task=1);"
        "print(s.optimum('weight', (2, 2)).tolist(), s.example_ids[:2], 'torch' in sys.modules)"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert "False" in printed[0]
