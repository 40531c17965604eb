"""What `check` and `plan` say of gradients and races before anything is spent, against what a search then spends."""

from pathlib import Path
from typing import Any

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.budget import spending
from evomerge.commands.check import check_search
from evomerge.commands.partial_trials import partial_trials
from evomerge.commands.plan import plan_search
from evomerge.config import load_config
from evomerge.launch.plan import build_optimizer, prepare
from evomerge.loop import decisions
from evomerge.run import Run
from evomerge.study import Study
from tests.conftest import TinyModels
from tests.evomerge.report.parts import raced_file
from tests.evomerge.searches import run_here
from tests.evomerge.test_gradient_search import write_search
from tests.toys import search_file

pytestmark = pytest.mark.timeout(3600)


def checked(file: Path) -> tuple[dict[str, Any], str]:
    data, lines = check_search(load_config(file), file)
    return data, "\n".join(lines)


def planned(file: Path) -> tuple[dict[str, Any], str]:
    data, lines = plan_search(load_config(file), file, measure=False)
    return data, "\n".join(lines)


@pytest.fixture(scope="module")
def searched(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str, list[Any]]:
    """A search by auto with short descents: its file, what `check` said of it before, and the lines it printed."""
    file = write_search(tmp_path_factory.mktemp("auto"), tiny, optimizer={"kind": "auto", "evaluations": 2})
    data, text = checked(file)
    return file, data, text, run_here(file)


def test_what_gradients_will_spend_is_what_they_spend(searched: tuple[Path, dict[str, Any], str, list[Any]]) -> None:
    file, data, text, _ = searched
    study = Study.read(file.parent / "study")
    first = sum(e.trial.counts and e.trial.label != "search" for e in study.entries.values())
    expected = data["gradients"]["evaluations"]
    assert spending(study).evaluations == pytest.approx(first + expected, abs=1.0)
    assert f"gradients: on count, sort; about {expected:.0f} evaluations" in text
    assert data["gradients"]["no_loss"] == {"count": None, "sort": None}
    assert (data["space"], data["space_used"]) == ("auto", "tensorwise")
    assert "(auto: tensorwise)" in text
    assert data["racing"]["level"] is None
    assert "racing: off. There are 82 search examples; `auto` races from 300" in text


def test_decisions_are_told_once_when_they_are_taken(searched: tuple[Path, dict[str, Any], str, list[Any]]) -> None:
    file, data, text, lines = searched
    made = list(decisions(Study.read(file.parent / "study")))
    assert [line["message"] for line in lines if line["event"] == "decided"] == made
    assert len(made) >= 4
    assert data["decisions"] == made[:1]
    assert f"auto: {made[0]}" in text
    place = {line.get("message"): n for n, line in enumerate(lines)}
    steps = [n for n, line in enumerate(lines) if line["event"] == "progress" and line.get("told", 0) == 13]
    assert place[made[0]] < place[made[1]] < max(steps)
    spent = spending(Study.read(file.parent / "study")).evaluations
    assert f"auto needs no more evaluations after {spent:.1f}" in place


@pytest.mark.slow
def test_a_resumed_search_tells_its_new_decisions_only(tiny: TinyModels, tmp_path: Path) -> None:
    file = write_search(tmp_path, tiny, optimizer={"kind": "auto", "evaluations": 1})

    def told(*options: object) -> list[str]:
        return [line["message"] for line in run_here(file, *options) if line["event"] == "decided"]

    first, then = told("--trials", 17), told("--resume", "--trials", 23)
    assert first
    assert then
    assert [*first, *then] == list(decisions(Study.read(tmp_path / "study")))


def test_the_steps_of_a_real_descent_are_shown(searched: tuple[Path, dict[str, Any], str, list[Any]]) -> None:
    run = Run(searched[0].parent / "study")
    found = run.partial["gradients"]
    assert found is not None
    steps = found["steps"]
    assert len(steps["number"]) == spending(run.study).gradient_steps > 20
    assert None not in steps["loss"]
    first = [loss for loss, checks in zip(steps["smoothed"], steps["checks"], strict=True) if checks == 0]
    assert first[-1] < first[0]
    assert [row["number"] for row in found["checks"]] == [
        e.trial.number for e in run.study.told if e.trial.label == "search" and e.trial.split == "search"
    ]


def test_time_and_memory_of_gradients_are_planned(searched: tuple[Path, dict[str, Any], str, list[Any]]) -> None:
    file, found, _, _ = searched
    other = strict_yaml.load(file.read_text(encoding="utf-8")).data | {"study": str(file.parent / "other")}
    (file.parent / "other.yaml").write_text(strict_yaml.dump(other), encoding="utf-8")
    data, lines = plan_search(load_config(file.parent / "other.yaml"), file, measure=True)
    text = "\n".join(lines)
    time = data["time"]
    wanted = (10 + found["gradients"]["evaluations"]) * time["candidate_seconds"]
    assert time["search_seconds"] == pytest.approx(wanted), "not the 60 evaluations that the budget allows"
    assert "gradients add the activations of a batch and the gradient of a tensor" in text
    assert data["gradients"]["largest_tensor_bytes"] > 0
    assert "use one worker" in text


def test_without_a_loss_it_is_black_box_search_and_why(tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    folder.mkdir()
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, optimizer="auto", space="auto")), encoding="utf-8")
    data, text = checked(file)
    assert data["gradients"]["evaluations"] is None
    assert all(data["gradients"]["no_loss"].values())
    assert "auto: Black-box search" in text
    assert "gradients: on" not in text
    assert "gradients add" not in planned(file)[1]
    why = data["gradients"]["no_loss"]["one"]
    assert f"no gradient on one: {why}" in text


@pytest.mark.parametrize(("racing", "shown"), [("aggressive", "racing: aggressive"), (None, None)])
def test_a_race_is_announced(tmp_path: Path, racing: str | None, shown: str | None) -> None:
    file = raced_file(tmp_path, **({} if racing else {"racing": "off"}))
    data, text = checked(file)
    assert (shown is None) == ("racing" not in text)
    assert data["racing"] == (None if racing is None else {"level": racing, "why_not": None})
    assert data["gradients"] is None


def test_a_descent_says_what_it_still_takes(tiny: TinyModels, tmp_path: Path) -> None:
    for optimizer, low, high in (
        ({"kind": "gradient", "evaluations": 4}, 4.5, 6.0),
        ({"kind": "auto", "evaluations": 30}, 41.0, 44.0),
    ):
        file = write_search(tmp_path, tiny, optimizer=optimizer)
        plan = prepare(load_config(file))
        left = build_optimizer(load_config(file), plan).evaluations_left()
        assert left is not None
        assert low <= left <= high
        assert partial_trials(load_config(file), plan)["gradients"]["evaluations"] == left
