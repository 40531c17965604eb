"""What trackers are told of a run: no mean where the objective goes by something else."""

from pathlib import Path

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.objective.spec import objective_of_study
from evomerge.report.snapshot import take
from evomerge.results.as_json import selection_to_dict
from evomerge.results.ranking import Ranking, best
from evomerge.results.result import selection
from evomerge.run import Run
from evomerge.study import Study
from evomerge.study.follow import Follower
from evomerge.trackers._story import Story
from evomerge.trackers.base import Point, Value
from tests.evomerge.searches import run_here, write_search

PARETO = {"objective": "pareto", "optimizer": "nsga2"}


def told(folder: Path, **changes: object) -> tuple[Study, list[Point], dict[str, Value]]:
    """A study over the toys, the points of its candidates, and all facts."""
    file = write_search(folder, trials=16, delay=0.0, **{k: v for k, v in changes.items() if k != "tasks"})
    if "tasks" in changes:
        file.write_text(strict_yaml.dump(strict_yaml.load(file.read_text()).data | {"tasks": changes["tasks"]}))
    run_here(file)
    story = Story(follower := Follower(folder / "study"))
    points, facts = story.tell(follower.poll())
    study = Study.read(folder / "study")
    result = selection_to_dict(selection(study, objective_of_study(study)))
    return study, points, facts | story.outcome(result)


def proposals(study: Study, points: list[Point]) -> list[Point]:
    return [point for point in points if study.entries[int(point.values["trial"])].trial.label == "search"]


def test_a_pareto_search_tells_tasks_and_the_volume_of_its_front(tmp_path: Path) -> None:
    study, points, facts = told(tmp_path, **PARETO)
    assert not any({"score", "best"} & set(point.values) for point in points)
    names = {name for name in facts if not name.startswith(("winner", "verdict"))}
    assert all("/task/one" in name or "/task/two" in name for name in names)
    front = take(Run.of(study)).front
    assert front is not None
    volumes = [point.values["hypervolume"] for point in proposals(study, points) if "task/one" in point.values]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(front.hypervolume)
    assert sum("hypervolume" in point.values for point in points) == len(volumes) > 3
    for point in points:
        outcome = study.entries[int(point.values["trial"])].outcome
        for task, scores in (outcome.scores if outcome is not None else {}).items():
            assert point.values[f"task/{task}"] == scores.mean


def test_the_volume_of_many_objectives_is_left_out(tmp_path: Path) -> None:
    tasks = {name: {"evaluator": "synthetic", "task": n, "n_examples": 60} for n, name in enumerate("abcde")}
    _, points, _ = told(tmp_path, tasks=tasks, **PARETO)
    assert not any("hypervolume" in point.values for point in points)


@pytest.mark.parametrize("kind", ["chebyshev", "retention"])
def test_where_the_worst_task_decides_it_is_told(tmp_path: Path, kind: str) -> None:
    study, points, facts = told(tmp_path, objective=kind)
    assert not any("score" in point.values for point in points)
    assert "report/base" not in facts
    found = take(Run.of(study)).best
    assert found is not None
    own = [point.values[kind] for point in proposals(study, points) if "task/one" in point.values]
    candidates = Ranking(study, objective_of_study(study), "search").candidates
    assert own == [model.decisive[kind] for model in candidates if model.kind == "candidate"]
    assert points[-1].values["best"] == pytest.approx(found.decisive[kind])
    assert all(kind not in p.values for p in points if study.entries[int(p.values["trial"])].trial.origin.is_parent)


def test_the_best_of_a_mean_keeps_what_is_to_be_kept(tmp_path: Path) -> None:
    tasks = {
        "one": {"evaluator": "synthetic", "low": 0.0, "high": 0.0},  # best is the base, and nothing else
        "two": {"evaluator": "synthetic", "low": 1.0, "high": 1.0},
    }
    study, points, _ = told(
        tmp_path, tasks=tasks, space="uniform", optimizer="random", objective={"one": 1, "two": 9}, keep={"one": 0.0}
    )
    objective = objective_of_study(study)
    ranking = Ranking(study, objective, "search")
    leader = best(ranking.merges)
    assert leader is not None
    assert points[-1].values["best"] == pytest.approx(leader.score.mean)
    highest = max(model.score.mean for model in ranking.candidates)
    assert points[-1].values["best"] < highest, "the largest mean breaks what is to be kept"


def test_told_at_once_or_bit_by_bit_it_is_the_same(tmp_path: Path) -> None:
    study, points, _ = told(tmp_path, **PARETO)
    lines = (study.folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "copy").mkdir()
    ledger = tmp_path / "copy" / "ledger.jsonl"
    ledger.write_bytes(lines[0])
    story, again = Story(follower := Follower(tmp_path / "copy")), []
    for line in lines[1:]:
        with ledger.open("ab") as file:
            file.write(line)
        again += story.tell(follower.poll())[0]
    assert again == points
