"""Where a search stands, against numbers worked out by hand."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from evaluators.base import Scores
from evomerge.objective import Floor, Objective
from evomerge.objective.spec import objective_of_study, record_objective
from evomerge.report.front_table import render_front
from evomerge.report.live import table
from evomerge.report.snapshot import take
from evomerge.report.status import render, status
from evomerge.results.front import front
from evomerge.results.progress import best_of_families, search_front
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Failure, Outcome, Trial
from tests.evomerge.report.studies import baseline, write_study
from tests.evomerge.results.models import scored_models


def test_a_snapshot_of_a_known_study(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    snapshot = take(Run.of(study), trials=20, busy=1, slots=2)
    assert (snapshot.told, snapshot.trials, snapshot.busy, snapshot.slots) == (6, 20, 1, 2)
    assert snapshot.failures == {"NonFiniteScore": 1}
    assert snapshot.best is not None
    # 3/4 of the mean of `one` minus 1/4 of the mean of `two`, which counts downwards.
    assert (snapshot.best.number, snapshot.best.score.mean) == (4, pytest.approx(0.75 * 0.75 - 0.25 * 1.0))
    assert snapshot.best.means == {"one": 0.75, "two": 1.0}
    # Standard errors of the means: 1/4 of `one`, 1/sqrt(3) of `two`.
    assert snapshot.best.score.standard_error == pytest.approx(math.hypot(0.75 / 4, 0.25 / math.sqrt(3)))
    assert [s.label for s in snapshot.baselines] == ["parent:a", "parent:b"]
    assert snapshot.stages["merge"] == pytest.approx(0.5 * 6)


@pytest.mark.parametrize(("kind", "searched"), [("mean", 2), ("chebyshev", 3), ("retention", 3)])
def test_a_baseline_may_be_the_best_so_far(tmp_path: Path, kind: str, searched: int) -> None:
    study = kind_of(tmp_path / "s", kind)
    objective = objective_of_study(study)
    values = {"uniform": (0.8, 0.3), "task_arithmetic:0.8": (0.9, 0.2)}
    for number, (label, row) in enumerate(values.items(), 5):
        ids = tuple(f"{n}" for n in range(10))
        scores = {
            task: Scores(ids, (np.arange(10) < 10 * value - 0.5).astype(float))
            for task, value in zip(("one", "two"), row, strict=True)
        }
        study.ask(Trial(number, None, merge=baseline(0.5), label=label))
        study.tell(Outcome(number, scores), list(objective.losses(scores)))
    snapshot = take(Run.of(study))
    assert snapshot.best is not None
    assert snapshot.best_candidate is not None
    assert (snapshot.best.label, snapshot.best_candidate.number) == ("task_arithmetic:0.8", searched)
    data = status(Run.of(study))
    assert (data["best"]["label"], data["best_candidate"]["number"]) == ("task_arithmetic:0.8", searched)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(data), table(snapshot, 200))
    text = console.export_text()
    for part in ("(task_arithmetic:0.8; ", "best candidate", f"(trial {searched})"):
        assert text.count(part) == 2, part


def test_baselines_beat_points_of_a_front_and_are_the_best_on_a_task(tmp_path: Path) -> None:
    study = kind_of(tmp_path / "s", "pareto")
    objective = objective_of_study(study)
    ids = tuple(f"{n}" for n in range(10))
    scores = {
        "one": Scores(ids, (np.arange(10) < 7).astype(float)),
        "two": Scores(ids, (np.arange(10) < 2).astype(float)),
    }
    study.ask(Trial(5, None, merge=baseline(0.5), label="uniform"))
    study.tell(Outcome(5, scores), list(objective.losses(scores)))
    front = take(Run.of(study)).front
    assert front is not None
    assert [model.number for model in front.candidates] == [2], "3 is dominated by the uniform average"
    assert {task: model.name for task, model in front.best.items()} == {
        "one": "trial 2",
        "two": "uniform",
    }
    assert front.hypervolume == pytest.approx(0.08), "of the candidates"


def test_the_canary_is_no_candidate(tmp_path: Path) -> None:
    snapshot = take(Run.of(write_study(tmp_path / "s")))
    assert snapshot.best is not None
    assert snapshot.best.means["one"] < 1.0


def test_waiting_is_what_workers_did_not_use(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    assert take(Run.of(study), slots=2).stages["waiting"] == 0.0
    assert "waiting" not in take(Run.of(study)).stages
    many = take(Run.of(study), slots=10**9)
    busy = sum(seconds for stage, seconds in many.stages.items() if stage != "waiting")
    assert many.stages["waiting"] == pytest.approx(many.seconds * 1e9 - busy, rel=0.9)


def test_a_snapshot_is_json(tmp_path: Path) -> None:
    data = take(Run.of(write_study(tmp_path / "s")), left=3.0).as_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_best_of_every_family_of_baselines() -> None:
    scores = {"parent:a": 0.3, "grid:0.2": 0.5, "parent:b": 0.4, "grid:0.4": 0.2, "uniform": 0.1}
    models = scored_models(Objective({"one": 1.0}), {label: {"one": score} for label, score in scores.items()})
    assert [model.label for model in best_of_families(models)] == ["grid:0.2", "parent:b", "uniform"]


def kind_of(folder: Path, kind: str, keep: dict[str, float] | None = None) -> Study:
    """Two parents and three candidates with 10 examples per task; `two` is an error rate."""
    floors = {task: Floor(fall) for task, fall in (keep or {}).items()}
    objective = Objective({"one": 1.0, "two": 1.0}, frozenset({"two"}), kind, floors)  # type: ignore[arg-type]
    configuration = {"tasks": {"one": "x", "two": "x"}, "objective": kind} | ({"keep": keep} if keep else {})
    study = Study.create(folder, configuration, {})
    record_objective(study, objective)
    rows = {"parent:a": (0.8, 0.6), "parent:b": (0.5, 0.2), "c1": (0.9, 0.5), "c2": (0.7, 0.3), "c3": (0.6, 0.5)}
    for number, (label, values) in enumerate(rows.items()):
        ids = tuple(f"{n}" for n in range(10))
        scores = {
            task: Scores(ids, (np.arange(10) < 10 * value - 0.5).astype(float))
            for task, value in zip(("one", "two"), values, strict=True)
        }
        x, merge = (np.array([0.5]), None) if label.startswith("c") else (None, baseline(1.0))
        study.ask(Trial(number, x, merge=merge, label=label))
        study.tell(Outcome(number, scores), list(objective.losses(scores)))
    return study


def test_a_pareto_search_has_a_front_and_no_mean(tmp_path: Path) -> None:
    snapshot = take(Run.of(kind_of(tmp_path / "s", "pareto")))
    assert snapshot.best is None
    assert snapshot.front is not None
    assert [model.number for model in snapshot.front.candidates] == [2, 3]
    best = {task: (model.number, model.means[task]) for task, model in snapshot.front.best.items()}
    assert best == {"one": (2, pytest.approx(0.9)), "two": (3, pytest.approx(0.3))}
    # The reference is (0.5, 0.6): 0.4 x 0.1 and 0.2 x 0.3, of which 0.2 x 0.1 is counted twice.
    assert snapshot.front.hypervolume == pytest.approx(0.04 + 0.06 - 0.02)
    data = snapshot.as_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["front"]["size"], data["baselines"][0]["score"], data["baselines"][0]["interval"]) == (2, None, None)


def test_a_front_counts_the_candidates_with_scores_everywhere_alike(tmp_path: Path) -> None:
    study = kind_of(tmp_path / "s", "pareto")
    study.ask(Trial(5, np.array([0.5])))
    study.tell(Outcome(5, failure=Failure("nonfinite", "no number")), None)
    data, shown = status(Run.of(study)), take(Run.of(study))
    assert (data["told"], data["front"]["candidates"]) == (6, 3)
    for view in (render(data), table(shown, 200)):
        console = Console(width=200, file=io.StringIO())
        console.print(view)
        assert "2 of 3 candidates not dominated by another merge" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_task_in_which_all_are_equal_takes_no_volume_away() -> None:
    rows = {"parent:a": (0.8, 0.6), "parent:b": (0.5, 0.2), "trial:2": (0.9, 0.5), "trial:3": (0.7, 0.3)}
    objective = Objective({"one": 1.0, "two": 1.0, "size": 1.0}, frozenset({"two", "size"}), "pareto")
    models = {label: {"one": one, "two": two, "size": 7.0} for label, (one, two) in rows.items()}
    found = search_front(scored_models(objective, models))
    assert found is not None
    assert found.hypervolume == pytest.approx(0.08)
    same = search_front(scored_models(objective, {label: {"one": 1.0, "two": 2.0, "size": 3.0} for label in rows}))
    assert same is not None
    assert same.hypervolume == 0.0


def test_the_hypervolume_over_time(tmp_path: Path) -> None:
    data = status(Run.of(kind_of(tmp_path / "s", "pareto")))
    assert data["front"]["numbers"] == [2, 3]
    after = {row["candidates"]: row["hypervolume"] for row in data["front"]["hypervolume_after"]}
    assert after == {1: pytest.approx(0.04), 2: pytest.approx(0.08), 3: pytest.approx(0.08)}
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(data))
    console.file.close()
    text = console.export_text()
    for part in (
        "2 of 3 candidates not dominated by another merge, hypervolume of the candidates 0.08",
        "by number of candidates: 0.04 after 1",
        "0.3 (trial 3, ",
        "0.800",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("kind", "keep", "number"),
    [("chebyshev", None, 3), ("retention", None, 3), ("mean", {"two": 0.1}, 3), ("mean", {"one": 0.0}, 2)],
)
def test_the_best_is_the_one_that_the_objective_prefers(
    tmp_path: Path, kind: str, keep: dict[str, float] | None, number: int
) -> None:
    # Against the best parents, 0.8 and 0.2: c1 (+0.1, -0.3), c2 (-0.1, -0.1), c3 (-0.2, -0.3).
    # As shares: c1 (+12 %, -150 %), c2 (-12 %, -50 %).
    best = take(Run.of(kind_of(tmp_path / "s", kind, keep))).best
    assert best is not None
    assert best.number == number
    # The worst share or gap; a mean is decided by its score.
    shares = {"one": (-0.125, 0.125)[number == 2], "two": (-0.5, -1.5)[number == 2]}
    expected = {
        "chebyshev": {"chebyshev": -0.1},
        "retention": {"retention": 1 + min(shares.values())},
    }.get(kind, {})
    assert dict(best.decisive) == pytest.approx(expected)
    assert best.gains == {"one": pytest.approx([0.1, -0.1][number - 2]), "two": pytest.approx([-0.3, -0.1][number - 2])}


@pytest.mark.parametrize("kind", ["chebyshev", "retention"])
def test_status_and_the_front_show_the_same_scores_and_what_decides(tmp_path: Path, kind: str) -> None:
    study = kind_of(tmp_path / "s", kind)
    # A recommendation that is worse than all: it is no candidate, but scores are scaled over it too.
    scores = {
        task: Scores(tuple(map(str, range(10))), np.full(10, value)) for task, value in (("one", 0.1), ("two", 1.0))
    }
    study.ask(Trial(5, np.array([0.5]), label="recommended:5"))
    objective = objective_of_study(study)
    study.tell(Outcome(5, scores), list(objective.losses(scores)))
    data = status(Run.of(study))
    shown = front(study, objective)
    points = {point.number: point for point in shown.points}
    for row in (data["best"], *data["baselines"]):
        assert row["score"] == pytest.approx(points[row["number"]].score.mean)
        assert row["decisive"] == pytest.approx(points[row["number"]].decisive)
    assert shown.preferred is points[data["best"]["number"]] is max(shown.choices, key=lambda p: p.decisive[kind])
    # Worst tasks: a gains 0 and -0.4, which is twice the best parent's 0.2; b loses 0.3 of 0.8 and nothing.
    assert [row["label"] for row in data["baselines"]] == ["parent:b", "parent:a"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(data), render_front(shown, 200))
    text = " ".join(console.export_text().split())
    assert f"best merge {kind} {data['best']['decisive'][kind]:.4f}, score " in text
    # By retention parent:b is better than all; by the score, and by the gaps, it is not.
    assert ("; parent:b is better)" if kind == "retention" else "; none of 2 baselines is better)") in text
    assert text.count(f"{kind}: ") == 2
    assert f"{points[1].decisive[kind]:.4f} " in text
