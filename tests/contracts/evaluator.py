"""What every evaluator must do: subclass EvaluatorContract, give the fixtures, inherit the tests."""

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluators._engines import write_with
from evaluators.base import Evaluator, EvaluatorError, Scores
from tests.evaluators.plain_engine import Plain


class EvaluatorContract:
    """Fixtures: `build` makes a fresh evaluator of the same options at every call; `model`, `other_model`
    score differently; `broken_model` yields no numbers."""

    #: Rounding that another batching of the same examples may cause.
    tolerance = 1e-5
    #: Why the same model need not score the same twice (times, say). Then values of two scorings are not compared.
    not_repeatable: str | None = None

    #: Steps of gradient descent that must improve the score.
    steps = 30

    @pytest.fixture
    def build(self) -> Callable[[], Evaluator]:
        raise NotImplementedError

    @pytest.fixture
    def learnable(self, build: Callable[[], Evaluator]) -> Callable[[], Evaluator]:
        """An evaluator whose score a little training improves; that of `build` unless it cannot be."""
        return build

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

    def test_a_smooth_score_comes_with_the_metric(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        scores = evaluator.score(model)
        if evaluator.smooth_score is None:
            assert scores.metric is None
            return
        assert scores.metric is not None
        assert np.isfinite(scores.metric).all()
        assert scores.by_metric.metric is None
        assert not np.array_equal(scores.by_metric.values, scores.values)

    def test_preflight_needs_no_weights_and_changes_no_score(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        if not (evaluator.needs_language_model or evaluator.needs_network):
            assert evaluator.preflight(None) == ()
            return
        shell = SimpleNamespace(network=SimpleNamespace(config=model.network.config))
        if evaluator.needs_language_model:
            shell.tokenizer = model.tokenizer
        assert all(isinstance(note, str) for note in evaluator.preflight(shell))
        scores = evaluator.score(model)
        assert np.isfinite(scores.values).all()
        if self.not_repeatable is None:
            self._close(scores.values, build().score(model).values)

    def test_texts_suffice_if_it_needs_no_weights(self, build: Callable[[], Evaluator], model: Any) -> None:
        """Its network computes NaN: another one writes the texts."""
        evaluator = build()
        if evaluator.needs_weights:
            return
        shell = SimpleNamespace(coefficients=model.coefficients)
        if evaluator.needs_language_model:
            shell.network, shell.tokenizer = copy.deepcopy(model.network), model.tokenizer
            for parameter in shell.network.parameters():
                parameter.data.fill_(float("nan"))
            write_with(shell.network, Plain(model.network))
        self._close(evaluator.score(shell).values, build().score(model).values)

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
        assert np.isnan(scores.by_metric.values).all()

    def test_leaves_the_global_random_states_alone(self, build: Callable[[], Evaluator], model: Any) -> None:
        before = _global_random_states()
        build().score(model)
        assert _global_random_states() == before

    def test_has_a_loss_or_says_why_not(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        why, ids = evaluator.why_no_loss(), evaluator.loss_ids()
        if why is None:
            assert ids
            assert ids == tuple(example_id for example_id in evaluator.example_ids if example_id in set(ids))
            return
        assert why.strip().endswith(".")
        assert ids == ()
        with pytest.raises(EvaluatorError):
            evaluator.loss(model, evaluator.example_ids)

    def test_losses_are_those_of_the_examples_in_order(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        ids = evaluator.loss_ids()
        if not ids:
            return
        losses = evaluator.loss(model, ids)
        assert losses.dtype == torch.float32
        assert losses.shape == (len(ids),)
        assert torch.isfinite(losses).all()
        assert torch.equal(losses, evaluator.loss(model, ids))
        rows = list(range(0, len(ids), 2))
        part = evaluator.loss(model, [ids[row] for row in reversed(rows)])
        alone = evaluator.loss(model, ids[-1:])
        assert torch.allclose(part, losses[rows], atol=self.tolerance, rtol=self.tolerance)
        assert torch.allclose(alone, losses[-1:], atol=self.tolerance, rtol=self.tolerance)
        for own in (part, alone):
            assert own.requires_grad

    def test_losses_are_refused_for_ids_it_does_not_have(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        ids = list(evaluator.loss_ids())
        for wrong in (["no such example"], [], ids[:1] * 2):
            with pytest.raises(EvaluatorError):
                evaluator.loss(model, wrong)

    def test_gradients_are_finite_and_leave_the_model_alone(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        ids = evaluator.loss_ids()
        if not ids:
            return
        weights = list(model.network.parameters())
        before = [weight.detach().clone() for weight in weights]
        scores = evaluator.score(model)
        found = torch.autograd.grad(evaluator.loss(model, ids).sum(), weights, allow_unused=True)
        gradients = [gradient for gradient in found if gradient is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.abs().max() > 0 for gradient in gradients)
        assert all(torch.equal(a, b.detach()) for a, b in zip(before, weights, strict=True))
        self._same(evaluator.score(model), scores)

    def test_descending_the_loss_improves_the_score(self, learnable: Callable[[], Evaluator], model: Any) -> None:
        evaluator = learnable()
        ids = evaluator.loss_ids()
        if not ids:
            return
        student = copy.copy(model)
        object.__setattr__(student, "network", copy.deepcopy(model.network))
        before = evaluator.score(student, ids).mean
        optimizer = torch.optim.Adam(student.network.parameters(), lr=0.01)
        for _ in range(self.steps):
            optimizer.zero_grad()
            evaluator.loss(student, ids).mean().backward()
            optimizer.step()
        after = evaluator.score(student, ids).mean
        assert after > before if evaluator.higher_is_better else after < before

    def test_references_are_the_targets_of_generated_answers(self, build: Callable[[], Evaluator], model: Any) -> None:
        evaluator = build()
        ids = evaluator.loss_ids()
        if not ids:
            return
        losses, referred = (evaluator.loss(model, ids, texts) for texts in ({}, {ids[0]: " 0 1 2 and so on"}))
        shown = evaluator.preview(evaluator.example_ids.index(ids[0]))
        generated = shown is not None and shown.generated
        assert torch.equal(losses[0], referred[0]) != generated
        assert torch.allclose(losses[1:], referred[1:], atol=self.tolerance)

    def test_losses_of_a_broken_model_are_no_numbers(self, build: Callable[[], Evaluator], broken_model: Any) -> None:
        evaluator = build()
        ids = evaluator.loss_ids()
        assert not ids or evaluator.loss(broken_model, ids).isnan().all()

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
