"""Curves of held-out score against cost, and the hostile task."""

import json
from pathlib import Path

import numpy as np

from evaluators.exact_match import ExactMatch
from experiments.compare_efficiency import COSTS, SEARCHERS, SETS, configuration, curve, slug
from experiments.misspelled import Misspelled


def test_a_curve_keeps_its_last_score_after_the_end_and_stops_at_the_budget() -> None:
    held_out = {"0": 0.5, "7": 0.6, "10": 0.6, "11.5": 0.7}
    found = dict(zip(COSTS, curve({"most": 50, "spent": 11.5, "held_out": held_out}), strict=True))
    assert (found[0], found[10], found[12.5], found[50]) == (0.5, 0.6, 0.7, 0.7)
    assert np.isnan(found[100])


def test_runs_have_names_of_their_own() -> None:
    assert len({slug(label) for label in SEARCHERS}) == len(SEARCHERS)


def test_seeds_divide_the_examples_otherwise(tmp_path: Path) -> None:
    for name in set(SETS) - {"demo-two-spellings"}:
        configs = [configuration(name, SEARCHERS["auto"], seed, tmp_path) for seed in (0, 1)]
        assert [config.split.salt for config in configs] == ["0", "1"]
        assert configs[0].space.kind == SETS[name][1]


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
