"""Each test of the evaluator kit catches the plug-in that is broken in that way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluators.base import NO_REFERENCES, Evaluator, Scores, content_ids
from tests.contracts.evaluator import EvaluatorContract

IDS = content_ids([f"example {i}" for i in range(6)])


@dataclass(frozen=True)
class Model:
    """Scores quality * (i + 1) on example i."""

    quality: float
    coefficients: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Any = None
    network: Any = field(default_factory=lambda: SimpleNamespace(config=None))


MODEL, OTHER, BROKEN = Model(0.5), Model(0.25), Model(float("nan"))


def trainable(quality: float) -> Model:
    """A model whose quality is a weight of its network."""
    network = torch.nn.Module()
    network.quality = torch.nn.Parameter(torch.tensor(quality))
    return Model(quality, network=network)


class Sound(Evaluator):
    @property
    def example_ids(self) -> tuple[str, ...]:
        return IDS

    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        rows = self.rows(ids)
        return Scores(tuple(IDS[row] for row in rows), self.values(model, rows))

    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        return model.quality * (np.array(rows) + 1.0)


class Learns(Sound):
    """Its score is the quality, its loss the negative quality."""

    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        return float(model.network.quality.detach()) * (np.array(rows) + 1.0)

    def why_no_loss(self) -> str | None:
        return None

    def loss(self, model: Any, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES) -> Any:
        rows = torch.tensor(self.loss_rows(ids, references))
        return self.losses(model.network.quality, rows)

    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return -quality * (rows + 1.0)


class HasNoExampleWithALoss(Learns):
    def loss_ids(self, references: Mapping[str, str] = NO_REFERENCES) -> tuple[str, ...]:
        return ()


class SaysNothing(Sound):
    def why_no_loss(self) -> str | None:
        return ""


class LosesInTheOrderAsked(Learns):
    def loss_rows(self, ids: Sequence[str], references: Mapping[str, str]) -> list[int]:
        return [IDS.index(i) for i in ids if i in IDS]


class DependsOnTheBatch(Learns):
    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return super().losses(quality, rows) / len(rows)


class LosesInDoublePrecision(Learns):
    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return super().losses(quality, rows).double()


class HasNoGradient(Learns):
    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return super().losses(quality.detach(), rows)


class HasEndlessGradients(Learns):
    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return super().losses(quality, rows) - (quality - 0.5).abs().sqrt()


class ChangesTheWeights(Learns):
    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        quality.data += 0.001
        return super().losses(quality, rows)


class LearnsTheOpposite(Learns):
    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return -super().losses(quality, rows)


class ReadsReferencesToQuestions(Learns):
    def loss(self, model: Any, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES) -> Any:
        return super().loss(model, ids) + len(references)


class CallsBrokenLossesZero(Learns):
    def losses(self, quality: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return super().losses(quality, rows).nan_to_num()


class AnswersInTheOrderAsked(Sound):
    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        rows = [IDS.index(i) for i in ids] if ids else self.rows(ids)
        return Scores(tuple(IDS[row] for row in rows), self.values(model, rows))


class MislabelsRows(Sound):
    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        return super().values(model, range(len(rows)))


class SkipsUnknownIds(Sound):
    def rows(self, ids: Sequence[str] | None) -> list[int]:
        return super().rows(None if ids is None else [i for i in ids if i in IDS])


class TakesNoneForAll(Sound):
    def rows(self, ids: Sequence[str] | None) -> list[int]:
        return super().rows(ids or None)


class DropsRepeats(Sound):
    def rows(self, ids: Sequence[str] | None) -> list[int]:
        return super().rows(None if ids is None else sorted(set(ids)))


class RemembersAnswers(Sound):
    first: float | None = None

    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        self.first = model.quality if self.first is None else self.first
        return self.first * (np.array(rows) + 1.0)


class Drifts(Sound):
    n_calls = 0

    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        self.n_calls += 1
        return super().values(model, rows) + self.n_calls * 1e-9


class KeepsStateOfPreflight(Sound):
    preflights = 0

    def preflight(self, model: Any) -> tuple[str, ...]:
        self.preflights += 1
        return ()

    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        return super().values(model, rows) + self.preflights


class CallsBrokenZero(Sound):
    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        return np.nan_to_num(super().values(model, rows))


class MovesTheGlobalState(Sound):
    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        np.random.seed(0)  # noqa: NPY002
        return super().values(model, rows)


class ShufflesItsIds(Sound):
    n_built = 0

    def __init__(self) -> None:
        type(self).n_built += 1
        self.turn = type(self).n_built % len(IDS)

    @property
    def example_ids(self) -> tuple[str, ...]:
        return IDS[self.turn :] + IDS[: self.turn]


class CallsItselfGood(Sound):
    higher_is_better = "yes"  # type: ignore[assignment]


class ReadsWeightsInSecret(Learns):
    needs_weights = False


class LeavesSomeOut(Sound):
    def values(self, model: Any, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        values = super().values(model, rows)
        values[0] = np.nan
        return values


class HidesTheMetric(Sound):
    smooth_score = "probability"


class ManyExamplesOfOneModel(Sound):
    whole_model = True


class Clock(EvaluatorContract):
    not_repeatable = "it is a clock"


CHECKS: dict[str, Callable[[EvaluatorContract, Callable[[], Evaluator]], None]] = {
    "ids": lambda kit, build: kit.test_ids_are_distinct_texts_in_an_order_that_stays(build),
    "direction": lambda kit, build: kit.test_knows_its_direction(build),
    "whole": lambda kit, build: kit.test_what_is_measured_of_the_whole_model_is_one_example(build),
    "all": lambda kit, build: kit.test_scores_every_example_in_order(build, MODEL),
    "smooth": lambda kit, build: kit.test_a_smooth_score_comes_with_the_metric(build, MODEL),
    "preflight": lambda kit, build: kit.test_preflight_needs_no_weights_and_changes_no_score(build, MODEL),
    "texts": lambda kit, build: kit.test_texts_suffice_if_it_needs_no_weights(build, trainable(0.5)),
    "subset": lambda kit, build: kit.test_a_subset_gives_its_rows_of_the_whole(build, MODEL),
    "alone": lambda kit, build: kit.test_one_example_alone_scores_as_among_all(build, MODEL),
    "unknown": lambda kit, build: kit.test_refuses_ids_it_does_not_have(build, MODEL),
    "empty": lambda kit, build: kit.test_refuses_no_ids_at_all(build, MODEL),
    "twice": lambda kit, build: kit.test_refuses_an_id_twice(build, MODEL),
    "again": lambda kit, build: kit.test_the_same_model_scores_the_same_again(build, MODEL),
    "other": lambda kit, build: kit.test_answers_of_one_model_are_never_given_to_another(build, MODEL, OTHER),
    "nan": lambda kit, build: kit.test_what_has_no_number_is_nan_and_never_zero(build, BROKEN),
    "random": lambda kit, build: kit.test_leaves_the_global_random_states_alone(build, MODEL),
    "loss or why": lambda kit, build: kit.test_has_a_loss_or_says_why_not(build, trainable(0.5)),
    "losses": lambda kit, build: kit.test_losses_are_those_of_the_examples_in_order(build, trainable(0.5)),
    "losses of others": lambda kit, build: kit.test_losses_are_refused_for_ids_it_does_not_have(build, trainable(0.5)),
    "gradients": lambda kit, build: kit.test_gradients_are_finite_and_leave_the_model_alone(build, trainable(0.5)),
    "descent": lambda kit, build: kit.test_descending_the_loss_improves_the_score(build, trainable(0.5)),
    "references": lambda kit, build: kit.test_references_are_the_targets_of_generated_answers(build, trainable(0.5)),
    "broken losses": lambda kit, build: kit.test_losses_of_a_broken_model_are_no_numbers(
        build, trainable(float("nan"))
    ),
}
LOSSES = [check for check in CHECKS if check.startswith("loss")] + [
    "gradients",
    "descent",
    "references",
    "broken losses",
]


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_evaluator_passes(check: str) -> None:
    CHECKS[check](EvaluatorContract(), Sound)


@pytest.mark.parametrize("check", LOSSES)
def test_a_sound_evaluator_with_a_loss_passes(check: str) -> None:
    CHECKS[check](EvaluatorContract(), Learns)


@pytest.mark.parametrize(
    ("check", "plugin"),
    [
        ("ids", ShufflesItsIds),
        ("direction", CallsItselfGood),
        ("whole", ManyExamplesOfOneModel),
        ("all", LeavesSomeOut),
        ("smooth", HidesTheMetric),
        ("preflight", KeepsStateOfPreflight),
        ("texts", ReadsWeightsInSecret),
        ("subset", AnswersInTheOrderAsked),
        ("subset", MislabelsRows),
        ("alone", MislabelsRows),
        ("unknown", SkipsUnknownIds),
        ("empty", TakesNoneForAll),
        ("twice", DropsRepeats),
        ("again", Drifts),
        ("other", RemembersAnswers),
        ("nan", CallsBrokenZero),
        ("random", MovesTheGlobalState),
        ("loss or why", HasNoExampleWithALoss),
        ("loss or why", SaysNothing),
        ("losses", LosesInTheOrderAsked),
        ("losses", DependsOnTheBatch),
        ("losses", LosesInDoublePrecision),
        ("losses", HasNoGradient),
        ("losses of others", LosesInTheOrderAsked),
        ("gradients", HasEndlessGradients),
        ("gradients", ChangesTheWeights),
        ("descent", LearnsTheOpposite),
        ("references", ReadsReferencesToQuestions),
        ("broken losses", CallsBrokenLossesZero),
    ],
)
def test_a_broken_evaluator_fails(check: str, plugin: type[Evaluator]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        CHECKS[check](EvaluatorContract(), plugin)


def test_every_test_of_the_kit_is_tried() -> None:
    tests = [name for name in vars(EvaluatorContract) if name.startswith("test_")]
    assert len(tests) == len(CHECKS)


@pytest.mark.parametrize("check", ["subset", "alone", "other"])
def test_what_is_not_repeatable_may_drift(check: str) -> None:
    CHECKS[check](Clock(), Drifts)


def test_what_is_not_repeatable_says_why() -> None:
    with pytest.raises(pytest.skip.Exception, match="it is a clock"):
        CHECKS["again"](Clock(), Drifts)
