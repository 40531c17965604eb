"""The progress picture: a real PNG, with what it should show."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from evomerge.report import plot
from evomerge.report.plot import PlotError, plot_progress
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Trial
from tests.evomerge.report.studies import CONFIGURATION, baseline, tell, write_study


def test_a_picture_in_the_folder_of_the_run(tmp_path: Path) -> None:
    path = plot_progress(Run.of(write_study(tmp_path / "s")))
    assert path == tmp_path / "s" / "progress.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_it_shows_candidates_the_best_so_far_and_the_leading_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    tidy = plot._tidy
    monkeypatch.setattr(plot, "_tidy", lambda axes: (seen.append(axes), tidy(axes)))
    plot_progress(Run.of(write_study(tmp_path / "s")), tmp_path / "p.png")
    lines = {line.get_label(): list(line.get_ydata()) for line in seen[0].get_lines()}
    scores = [0.75 * 0.25 - 0.5, 0.75 * 0.75 - 0.25, 0.75 * 0.5 - 0.5]
    assert lines["candidates"] == pytest.approx(scores)
    assert lines["best merge so far"] == pytest.approx([scores[0], scores[1], scores[1]])
    assert lines["parent:a"] == pytest.approx([0.75 * 0.5 - 0.25] * 2)
    assert "parent:b" not in lines


def test_a_baseline_that_is_a_merge_counts_in_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_study(tmp_path / "s")
    tell(study, Trial(8, None, merge=baseline(0.5), label="uniform"), [1.0, 1.0, 1.0, 1.0], [1.0] * 4)
    tell(study, Trial(9, np.array([0.5])), [0.0] * 4, [1.0] * 4)
    seen = []
    monkeypatch.setattr(plot, "_tidy", seen.append)
    plot_progress(Run.of(study), tmp_path / "p.png")
    lines = {line.get_label(): list(line.get_ydata()) for line in seen[0].get_lines()}
    assert lines["best merge so far"] == pytest.approx([0.75 * 0.25 - 0.5, 0.3125, 0.3125, 0.75 - 0.25])
    assert len(lines["candidates"]) == 4


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match="no scored candidate"):
        plot_progress(Run.of(Study.create(tmp_path / "s", CONFIGURATION, {})))
