"""The front as a table, as a list on a narrow terminal, and as data."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from evomerge.commands.pareto import show_front
from evomerge.objective import Floor, Objective
from evomerge.report.front_plot import plot_front
from evomerge.report.front_table import plus_minus
from evomerge.report.plot import PlotError
from evomerge.results.front import front
from evomerge.run import Run
from evomerge.statistics import Estimate
from evomerge.study import Study
from tests.evomerge.report.fronts import PARETO, SEARCH, finish, write_front


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table") / "study"
    finish(write_front(folder, SEARCH), {6: (6, 6)}, {"base": (1, 1), "parent:math": (8, 2), 6: (5, 5)})
    return folder


def shown(run: Path, width: int = 120, **options: bool) -> str:
    return printed(show_front(Run(run), "search", width, **options)[1], width)


def printed(text: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(text)
    return console.export_text()


def test_models_are_shown_wherever_they_are_and_the_front_is_marked(run: Path) -> None:
    lines = {line.strip("│").split("│")[0].strip(): line for line in shown(run).splitlines() if line.startswith("│")}
    assert list(lines) == [
        *("* trial:6", "* trial:9", "* parent:math", "* trial:8", "* parent:chat", "* trial:5", "* trial:7"),
        *("uniform", "base"),
    ]
    assert "0.600 ± 0.2" in lines["* trial:6"]
    assert "knee, preferred" in lines["* trial:6"]
    assert "dominated" in lines["base"]
    assert "knee" not in lines["* trial:9"]
    assert "2 more models, dominated by these: --all" in shown(run)
    assert "trial:10" in shown(run, everything=True)
    assert "more model" not in shown(run, everything=True)


def test_what_falls_below_what_the_study_keeps_is_marked(tmp_path: Path) -> None:
    keeping = Objective({"math": 1.0, "chat": 1.0}, kind="pareto", keep={"chat": Floor(0.3)})  # of parent:chat's 0.8
    write_front(tmp_path / "study", SEARCH, keeping).close()
    text = shown(tmp_path / "study")
    rows = [row for row in text.splitlines() if "violates keep" in row]
    assert ["trial:8" in row or "trial:5" in row for row in rows[:2]] == [True, True]
    assert not any("trial:7" in row or "parent" in row for row in rows)
    assert "Constraints relative to the best parent: chat -0.3" in " ".join(text.split())


def test_hypervolume_stands_for_both_splits_and_says_from_where(run: Path) -> None:
    text = " ".join(shown(run, 200).split())
    assert "hypervolume of all models on the search split: 0.19 [" in text
    assert "the worst of them on each task: math 0.2, chat 0.2" in text
    # On report, from (.1, .1): parent:math .7 x .1, and 6 adds .4 x .3.
    assert "hypervolume of all models on the report split: 0.19 [" in text
    assert "math 0.1, chat 0.1" in text
    assert f"next: evomerge pick {run}" in text
    assert f"next: evomerge export {run} --trial 6 -o DIR" in text


def test_the_selected_merge_is_marked_and_no_other_is_suggested_on_held_out_examples(tmp_path: Path) -> None:
    study = write_front(tmp_path / "study", SEARCH)
    study.event("selected", label="trial:8", candidates=6)
    finish(study, {6: (6, 6), 8: (7, 4)}, {"base": (1, 1), 6: (6, 6), 8: (5, 5)})
    for split, suggested in (("search", "trial:6"), ("report", None)):
        data, text = show_front(Run(tmp_path / "study"), split, 120)
        assert (data["selected"], data["preferred"], data["knee"]) == ("trial:8", suggested, suggested)
        assert data["next"][1:] == [f"evomerge export {tmp_path / 'study'} -o DIR"]
        rows = printed(text, 120).splitlines()
        (row,) = [row for row in rows if "trial:8" in row]  # on report it is dominated, and shown all the same
        assert "selected" in row
        assert any("preferred" in row for row in rows) is (suggested is not None)


def test_volumes_of_two_splits_are_said_not_to_be_comparable(tmp_path: Path) -> None:
    """They count from different references, of different models."""
    study = write_front(tmp_path / "study", SEARCH)
    assert "Hypervolumes of different splits" not in shown(tmp_path / "study")
    finish(study, {}, {"base": (1, 1), "parent:math": (5, 1), 6: (6, 6), 8: (5, 5)})
    data, text = show_front(Run(tmp_path / "study"), "search", 120)
    assert data["hypervolume"]["search"]["reference"] != data["hypervolume"]["report"]["reference"]
    assert any(note.startswith("Hypervolumes of different splits are not comparable") for note in data["notes"])
    assert "with the hypervolume of base and parents on the same split" in " ".join(printed(text).split())


def test_a_narrow_terminal_gets_a_list_that_keeps_every_number(run: Path) -> None:
    text = shown(run, 20)
    assert max(map(len, text.splitlines())) <= 20
    assert "┃" not in text
    squeezed = " ".join(text.split())
    assert "* trial:6 math 0.600 ± 0." in squeezed
    assert "P(front) 0." in squeezed


def test_the_data_are_complete_and_keep_their_keys(run: Path) -> None:
    data, _ = show_front(Run(run), "search", 80)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data) >= {
        *("study", "split", "tasks", "examples", "points", "knee", "preferred", "selected"),
        *("optimism", "left_out", "pending"),
        *("hypervolume", "predicted", "notes", "next", "picture"),
    }
    assert len(data["points"]) == len(SEARCH)
    assert set(data["points"][0]) >= {
        *("label", "number", "kind", "on_front", "probability", "score", "shrunk", "decisive", "tasks"),
    }
    assert data["hypervolume"]["search"]["of_all"]["value"] == pytest.approx(0.19)
    assert data["hypervolume"]["report"]["reference"] == {"math": 0.1, "chat": 0.1}
    assert (data["knee"], data["preferred"], data["picture"]) == ("trial:6", "trial:6", None)


def test_an_empty_split_says_so(tmp_path: Path) -> None:
    finish(write_front(tmp_path / "study", {}), {}, {})
    data, text = show_front(Run(tmp_path / "study"), "search", 80)
    assert "Nothing is scored on the search split yet." in printed(text)
    assert (data["points"], data["hypervolume"]) == ([], {"search": None, "report": None})


def test_an_interval_that_is_not_known_is_not_shown() -> None:
    assert plus_minus(Estimate(0.5, float("inf"), 1)) == "0.5"
    assert plus_minus(Estimate(0.5, 0.01, 100)) == "0.500 ± 0.020"


@pytest.mark.parametrize("n_tasks", [1, 2, 4])
def test_the_picture(tmp_path: Path, n_tasks: int) -> None:
    objective = Objective({f"${n}_task": 1.0 for n in range(n_tasks)}, kind="pareto" if n_tasks > 1 else "mean")
    models: dict[str | int, list[int]] = {"base": [2] * n_tasks, 1: [5] * n_tasks, 2: [*[4] * (n_tasks - 1), 9]}
    study = write_front(tmp_path / "study", models, objective)
    study.close()
    picture = plot_front(Run.of(study), front(study, objective))
    assert picture == tmp_path / "study" / "front.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_picture_of_nothing(tmp_path: Path) -> None:
    finish(write_front(tmp_path / "study", {"base": (1, 1)}), {}, {})
    with pytest.raises(PlotError, match="nothing to draw"):
        plot_front(Run.of(Study.read(tmp_path / "study")), front(Study.read(tmp_path / "study"), PARETO))
