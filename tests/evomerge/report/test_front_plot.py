"""The picture of a front: which points of two tasks have a name, and of three a line; what its axes say."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from evomerge.objective import Objective
from evomerge.report import front_plot
from evomerge.results.front import front
from evomerge.run import Run
from tests.evomerge.report.fronts import PARETO, SEARCH, write_front

THREE = Objective({"math": 1.0, "chat": 1.0, "loss": 1.0}, frozenset({"loss"}), kind="pareto")
#: Right answers of ten to math and chat, and errors, of which less is better. Every merge but 13 is on the front.
MODELS: dict[str | int, list[int]] = {
    "base": [1, 1, 8],
    "parent:math": [9, 1, 9],
    "parent:chat": [2, 9, 9],
    "parent:both": [6, 6, 9],
    4: [10, 0, 9],
    5: [0, 10, 9],
    6: [1, 1, 0],
    7: [7, 7, 4],
    8: [8, 6, 5],
    9: [6, 8, 5],
    10: [9, 3, 6],
    11: [3, 9, 6],
    12: [2, 2, 1],
    13: [2, 2, 9],
}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that are drawn, each with its axes."""
    drawn: list = []
    new_figure = front_plot.new_figure

    def kept(height: float) -> tuple:
        drawn.append(new_figure(height))
        return drawn[-1]

    monkeypatch.setattr(front_plot, "new_figure", kept)
    return drawn


def test_only_what_stands_out_has_a_line(tmp_path: Path, figures: list) -> None:
    study = write_front(tmp_path / "study", MODELS, THREE)
    study.close()
    shown = front(study, THREE)
    front_plot.plot_front(Run.of(study), shown)
    axes = figures[0][1]
    lines = {line.get_label(): line for line in axes.get_lines()}
    # 7 is both in the middle and best in the mean; the merges that are neither that nor best on a task are strokes.
    assert shown.suggested == {"knee": shown.preferred, "preferred": shown.preferred}
    assert list(lines) == [
        "6 others",
        "trial:7: knee, preferred",
        "trial:4: best merge on math",
        "trial:5: best merge on chat",
        "trial:6: best merge on loss",
        "parent:math: best model on math",
        "parent:chat: best model on chat",
        "base: best model on loss",
    ]
    assert lines["6 others"].get_linestyle() == "None"
    assert len(lines["6 others"].get_ydata()) == 3 * 6
    assert lines["base: best model on loss"].get_ydata() == pytest.approx([0.1, 0.1, 1 / 9])
    assert len({line.get_marker() for line in lines.values()}) == len(lines)
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "math\n0 to 1",
        "chat\n0 to 1",
        "loss (lower is better)\n0.9 to 0",
    ]


def test_without_others_there_is_no_word_of_them(tmp_path: Path, figures: list) -> None:
    study = write_front(tmp_path / "study", {1: [5, 5, 5]}, THREE)
    study.close()
    front_plot.plot_front(Run.of(study), front(study, THREE))
    assert [line.get_label() for line in figures[0][1].get_lines()] == [
        "trial:0: preferred, best merge on math, chat, loss"
    ]


def test_names_of_two_tasks_say_what_is_suggested_and_selected(tmp_path: Path, figures: list) -> None:
    study = write_front(tmp_path / "a $tudy", SEARCH)
    # 10 is dominated on this split, and named all the same.
    study.event("selected", label="trial:10", candidates=3)
    study.close()
    shown = front(study, PARETO)
    front_plot.plot_front(Run.of(study), shown)
    axes = figures[0][1]
    assert axes.get_title(loc="left") == r"a \$tudy: search split; bars are 95 % intervals"
    named = {label.get_text() for label in axes.texts}
    assert named == {"trial:6 (knee, preferred)", "trial:10 (selected)", "base", "parent:math", "parent:chat"}


def test_names_stay_inside_of_the_axes(tmp_path: Path, figures: list) -> None:
    long = "a-model-with-a-name-as-long-as-those-of-the-hub"
    models = {"base": (1, 1), f"parent:{long}": (9, 3), "parent:x": (3, 9), 5: (7, 7)}
    study = write_front(tmp_path / "study", models)
    study.close()
    front_plot.plot_front(Run.of(study), front(study, PARETO))
    figure, axes = figures[0]
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    assert len(axes.texts) == 4
    for label in axes.texts:
        box = label.get_window_extent()
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, label.get_text()


def test_what_was_selected_has_a_line_wherever_it_lies(tmp_path: Path, figures: list) -> None:
    study = write_front(tmp_path / "study", MODELS, THREE)
    study.event("selected", label="trial:13", candidates=3)
    study.close()
    front_plot.plot_front(Run.of(study), front(study, THREE))
    labels = [line.get_label() for line in figures[0][1].get_lines()]
    assert "trial:13: selected" in labels
    assert "6 others" in labels
