"""The result table and its JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from evomerge.objective import Objective
from evomerge.report.standings import render
from evomerge.results.as_json import selection_to_dict
from evomerge.results.flips import Flips
from evomerge.results.result import Selection
from evomerge.results.verdict import Claim, Repeat
from evomerge.statistics import Difference
from evomerge.trial import Trial
from tests.evomerge.results.models import scored_models

ADD = Objective({"add": 1.0})
LEADS = {"parent:a": Difference(0.25, 0.03, 200, 1e-9)}
WINNER, PARENT = scored_models(ADD, {"trial:4": {"add": 0.75}, "parent:a": {"add": 0.5}}, spread=0.198)
SELECTION = Selection(Trial(4, None, label="trial:4"), (WINNER, PARENT), LEADS, "trial:4 beats parent:a.", 1)


def test_the_table(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(SELECTION))
    console.file.close()
    text = console.export_text()
    for part in ("trial:4", "0.750 ± 0.039", "parent:a", "0.500 ± 0.039", "+0.250 ± 0.059", "<0.0001"):
        assert part in text
    assert "± is half a 95 % interval" in text
    assert text.rstrip().endswith("trial:4 beats parent:a.")


def test_answers_lost_are_a_share_of_all_tasks_with_right_and_wrong_answers(tmp_path: Path) -> None:
    found = (Flips("add", "parent:a", 2, 1, 40), Flips("sort", "parent:b", 3, 9, 60))
    selection = replace(SELECTION, flips={"trial:4": found, "parent:a": ()})
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(selection))
    console.file.close()
    text = console.export_text()
    assert "answers lost" in text
    assert "5.0 %" in text
    assert selection_to_dict(selection)["standings"][0]["flips"][1]["lost"] == 3


def test_what_else_there_is_to_say(tmp_path: Path) -> None:
    objective = Objective({"size": 1.0}, frozenset({"size"}), whole_model=frozenset({"size"}))
    sizes = {"trial:4": {"size": 1e6}, "parent:a": {"size": 2e6}, "uniform": {"size": 1e6}}
    selection = Selection(
        SELECTION.winner,
        tuple(scored_models(objective, sizes, n_examples=1)),
        {"parent:a": Difference(1e6, math.inf, 1, 1.0), "uniform": Difference(0.0, 0.0, 9, 1.0)},
        "v",
        1,
        claims=(Claim("add", "parent:a", Difference(0.25, 0.03, 200, 0.01), 0.03),),
        keeps=True,
        front=("trial:4", "trial:5"),
        scale={"size": (2e6, 1e6)},
        repeat=Repeat("parent:a", {"add": 3, "size": 0}, {"add": 40, "size": 1}, {"add": -0.004, "size": 0.0}, -0.002),
    )
    console = Console(width=300, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(selection))
    console.file.close()
    text = console.export_text()
    assert "inf" not in text
    assert text.count("±") == 1, "only the title's"
    assert "scores are scaled from 0, the worst model on the select split, to 1 (size 2e+06 to 1e+06)" in text
    assert "Non-dominated on the select split: trial:4, trial:5." in text
    assert (
        "parent:a gave different values for 3 of 41 examples (add 3, mean shift -0.004); its score changed by -0.002."
        in text
    )
    data = selection_to_dict(selection)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["by_task"][0]["p_holm"] == 0.03
    assert data["scored_twice"]["changed"] == {"add": 3, "size": 0}
    assert data["scored_twice"]["shifts"] == {"add": -0.004, "size": 0.0}


def test_json_has_the_same_numbers_and_no_infinity() -> None:
    (alone,) = scored_models(ADD, {"x": {"add": 1.0}}, n_examples=1)
    data = selection_to_dict(Selection(SELECTION.winner, (WINNER, PARENT, alone), LEADS, "v", 2))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["standings"][1]["winner_ahead"]["p"] == 1e-9
    assert data["standings"][2]["standard_error"] is None
    assert (data["winner"], data["looks_at_report"]) == ("trial:4", 2)
