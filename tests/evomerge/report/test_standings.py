"""The result table and its JSON."""

import json
import math
from pathlib import Path

from rich.console import Console

from evomerge.records import Trial
from evomerge.report.standings import render, selection_to_dict
from evomerge.selection import Selection, Standing
from evomerge.statistics import Difference, Estimate

WINNER = Standing("trial:4", Estimate(0.75, 0.02, 200), {"add": Estimate(0.75, 0.02, 200)}, None)
PARENT = Standing(
    "parent:a", Estimate(0.5, 0.025, 200), {"add": Estimate(0.5, 0.025, 200)}, Difference(0.25, 0.03, 200, 1e-9)
)
SELECTION = Selection(Trial(4, None, label="trial:4"), (WINNER, PARENT), "trial:4 beats parent:a.", 1)


def test_the_table(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(SELECTION))
    console.file.close()
    text = console.export_text()
    for part in ("trial:4", "0.750 ± 0.039", "parent:a", "0.500 ± 0.049", "+0.250 ± 0.059", "<0.0001"):
        assert part in text
    assert "± is a 95 % interval" in text
    assert text.rstrip().endswith("trial:4 beats parent:a.")


def test_json_has_the_same_numbers_and_no_infinity() -> None:
    alone = Standing("x", Estimate(1.0, math.inf, 1), {}, None)
    data = selection_to_dict(Selection(SELECTION.winner, (WINNER, PARENT, alone), "v", 2))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["standings"][1]["winner_ahead"]["p"] == 1e-9
    assert data["standings"][2]["standard_error"] is None
    assert (data["winner"], data["looks_at_report"]) == ("trial:4", 2)
