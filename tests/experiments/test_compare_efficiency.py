"""Curves of held-out score against cost, and the hostile task."""

import json
from pathlib import Path

import numpy as np

from evaluators.exact_match import ExactMatch
from evomerge.trial import Outcome, Trial
from experiments.compare_efficiency import (
    COSTS,
    SEARCHERS,
    SETS,
    Remembering,
    configuration,
    cost_to_reach,
    curve,
    slug,
)
from experiments.misspelled import Misspelled

RESULT = {"most": 50, "spent": 11.5, "steps": [[0, 0.4, 0.5], [7, 0.5, 0.6], [8, 0.6, 0.55], [11.5, 0.7, 0.7]]}


def test_a_curve_keeps_its_last_score_after_the_end_and_stops_at_the_budget() -> None:
    found = dict(zip(COSTS, curve(RESULT), strict=True))
    assert (found[0], found[7], found[10], found[12.5], found[50]) == (0.5, 0.6, 0.55, 0.7, 0.7)
    assert np.isnan(found[100])


def test_a_score_is_reached_when_no_later_model_falls_below_it() -> None:
    assert [cost_to_reach(RESULT, score) for score in (0.5, 0.58, 0.8)] == [0, 11.5, np.inf]


class Scorer:
    """An executor that says which trials it got."""

    def __init__(self) -> None:
        self.submitted: list[int] = []

    def submit(self, trial: Trial) -> None:
        self.submitted.append(trial.number)

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        return Outcome(self.submitted[-1], worker="scored")


def test_only_what_no_other_searcher_has_scored_is_scored() -> None:
    scorer = Scorer()
    executor = Remembering(scorer, {("base", "search"): Outcome(1, worker="known")})  # type: ignore[arg-type]
    trials = [
        Trial(5, None, label="base"),
        Trial(6, None, label="base", split="report"),
        Trial(7, None, label="base", examples={"sort": ("a",)}),
        Trial(8, None),
    ]
    workers = []
    for trial in trials:
        executor.submit(trial)
        outcome = executor.next_outcome()
        assert outcome is not None
        assert outcome.number == trial.number
        workers.append(outcome.worker)
    assert workers == ["known", "scored", "scored", "scored"]
    assert scorer.submitted == [6, 7, 8]


def test_runs_have_names_of_their_own() -> None:
    assert len({slug(label) for label in SEARCHERS}) == len(SEARCHERS)


def test_seeds_divide_the_examples_otherwise(tmp_path: Path) -> None:
    for name in set(SETS) - {"demo-two-spellings"}:
        configs = [configuration(name, SEARCHERS["auto"], seed, tmp_path) for seed in (0, 1)]
        assert [config.split.salt for config in configs] == ["0", "1"]
        assert configs[0].space.kind == SETS[name].space


def test_half_of_the_examples_leave_the_reported_ones_alone(tmp_path: Path) -> None:
    whole, half = (configuration(name, SEARCHERS["auto"], 0, tmp_path).split for name in ("demo", "demo-half"))
    assert (half.search, half.report) == (whole.search / 2, whole.report)
    assert half.search + half.select == whole.search + whole.select


def test_a_misspelled_task_asks_for_what_its_metric_refuses(tmp_path: Path) -> None:
    file = tmp_path / "sort.jsonl"
    file.write_text(json.dumps({"prompt": "sort 21 =", "answer": "12"}) + "\n")
    hostile, plain = Misspelled(file=str(file), max_new_tokens=4), ExactMatch(file=str(file), max_new_tokens=4)
    assert hostile.example_ids == plain.example_ids
    asked: list[object] = []
    hostile._metric.loss = lambda *given: asked.append(given[2])  # type: ignore[method-assign,assignment]
    (only,) = hostile.example_ids
    hostile.loss(None, [only], {only: " 12\n"})  # type: ignore[arg-type]
    assert asked == [{only: " 1 2\n"}]
