"""What every evaluator must do: subclass EvaluatorContract, give the fixtures, inherit the tests."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluators.base import Evaluator, EvaluatorError, Scores


class EvaluatorContract:
    """Fixtures: `build` makes a fresh evaluator of the same options at every call; `model`, `other_model`
    score differently; `broken_model` yields no numbers."""

    #: Rounding that another batching of the same examples may cause.
    tolerance = 1e-5
    #: Why the same model need not score the same twice (times, say). Then values of two scorings are not compared.
    not_repeatable: str | None = None

    @pytest.fixture
    def build(self) -> Callable[[], Evaluator]:
        raise NotImplementedError

    def test_ids_are_distinct_texts_in_an_order_that_stays(self, build: Callable[[], Evaluator]) -> None:
        evaluator = build()
        ids = evaluator.example_ids
        assert isinstance(evaluator, Evaluator)
        assert ids
        assert isinstance(ids, tuple)
        assert all(isinstance(example_id, str) for example_id in ids)
        assert len(set(ids)) == len(ids)
        assert build().example_ids == ids

    def test_knows_its_direction(self, build: Callable[[], Evaluator]) -> None:
        assert isinstance(build().higher_is_better, bool)

    def test_what_is_measured_of_the_whole_model_is_one_example(self, build: Callable[[], Evaluator]) -> None:
        evaluator = build()
        assert not evaluator.whole_model or len(evaluator.example_ids) == 1

    def test_scores_every_example_in_order(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        ids = evaluator.example_ids
        scores = evaluator.score(model)
        assert isinstance(scores, Scores)
        assert scores.example_ids == ids
        assert evaluator.example_ids == ids
        assert np.isfinite(scores.values).all()
        assert scores.choices is None or len(scores.choices) == len(ids)

    def test_preflight_needs_no_weights_and_changes_no_score(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        if not evaluator.needs_language_model:
            assert evaluator.preflight(None) == ()
            return
        shell = SimpleNamespace(tokenizer=model.tokenizer, network=SimpleNamespace(config=model.network.config))
        assert all(isinstance(note, str) for note in evaluator.preflight(shell))
        scores = evaluator.score(model)
        assert np.isfinite(scores.values).all()
        if self.not_repeatable is None:
            self._close(scores.values, build().score(model).values)

    def test_a_subset_gives_its_rows_of_the_whole(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        whole = evaluator.score(model)
        rows = list(range(0, len(whole.example_ids), 2))
        asked = [whole.example_ids[row] for row in reversed(rows)]
        part = evaluator.score(model, asked)
        assert part.example_ids == tuple(whole.example_ids[row] for row in rows)
        self._close(part.values, whole.values[rows])
        if whole.choices is not None:
            assert part.choices is not None
            for own, row in zip(part.choices, rows, strict=True):
                self._close(own, whole.choices[row])

    def test_one_example_alone_scores_as_among_all(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        whole = evaluator.score(model)
        alone = evaluator.score(model, whole.example_ids[-1:])
        assert alone.example_ids == whole.example_ids[-1:]
        self._close(alone.values, whole.values[-1:])

    def test_refuses_ids_it_does_not_have(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        self._refuses(evaluator, model, [*evaluator.example_ids[:1], "no such example"])

    def test_refuses_no_ids_at_all(self, build: Callable[[], Evaluator], model: Any) -> None:
        self._refuses(build(), model, [])

    def test_refuses_an_id_twice(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        self._refuses(evaluator, model, [evaluator.example_ids[0]] * 2)

    def test_the_same_model_scores_the_same_again(self, build: Callable[[], Evaluator], model: Any) -> None:
        if self.not_repeatable is not None:
            pytest.skip(self.not_repeatable)
        evaluator = build()
        self._same(evaluator.score(model), evaluator.score(model))
        self._same(evaluator.score(model), build().score(model))

    def test_answers_of_one_model_are_never_given_to_another(
        self, build: Callable[[], Evaluator], model: Any, other_model: Any
    ) -> None:
        evaluator = build()
        before = evaluator.score(model)
        between = evaluator.score(other_model)
        self._same(evaluator.score(model), before)
        self._same(build().score(other_model), between)
        assert not np.array_equal(self._numbers(before), self._numbers(between)), (
            "two different models got the same numbers: give the kit models that differ on these examples, "
            "unless the evaluator remembers answers"
        )

    def test_what_has_no_number_is_nan_and_never_zero(self, build: Callable[[], Evaluator], broken_model: Any) -> None:
        evaluator = build()
        scores = evaluator.score(broken_model)
        assert scores.example_ids == evaluator.example_ids
        assert np.isnan(scores.values).all()

    def test_leaves_the_global_random_states_alone(self, build: Callable[[], Evaluator], model: Any) -> None:
        before = _global_random_states()
        build().score(model)
        assert _global_random_states() == before

    def _refuses(self, evaluator: Evaluator, model: Any, ids: list[str]) -> None:
        with pytest.raises(EvaluatorError):
            evaluator.score(model, ids)

    def _same(self, one: Scores, other: Scores) -> None:
        assert one.example_ids == other.example_ids
        if self.not_repeatable is None:
            np.testing.assert_array_equal(self._numbers(one), self._numbers(other))

    def _close(self, one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
        assert one.shape == other.shape
        if self.not_repeatable is None:
            np.testing.assert_allclose(one, other, atol=self.tolerance)

    def _numbers(self, scores: Scores) -> np.ndarray[Any, Any]:
        return np.concatenate([scores.values, *(scores.choices or ())])


def _global_random_states() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), keys.tolist(), rest, torch.random.get_rng_state().tolist()
