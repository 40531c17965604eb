"""Searches that learn from earlier studies: what they take over, what never counts as theirs, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.config import ConfigError, load_config
from evomerge.launch.plan import Plan, prepare
from evomerge.objective.reference import Reference
from evomerge.run import Run
from evomerge.study import Study
from tests.evomerge.searches import history, run_here
from tests.toys import search_file

TRIALS = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of all searches here."""
    return tmp_path_factory.mktemp("learn")


@pytest.fixture(scope="module")
def write(folder: Path) -> Callable[..., Path]:
    """Write a search file for a study of its own; keys as in `search_file`."""
    settings = search_file(folder, budget={"trials": TRIALS})

    def write_file(name: str, **changes: Any) -> Path:
        file = folder / f"{name}.yaml"
        file.write_text(strict_yaml.dump({**settings, "study": str(folder / name), **changes}), encoding="utf-8")
        return file

    return write_file


@pytest.fixture(scope="module")
def earlier(write: Callable[..., Path]) -> Path:
    """The folder of a finished study."""
    file = write("earlier")
    run_here(file)
    return load_config(file).study


@pytest.fixture(scope="module")
def learned(write: Callable[..., Path], earlier: Path) -> Path:
    """The folder of a finished study that learned from it."""
    file = write("learned", seed=4)
    run_here(file, "--learn-from", earlier)
    return load_config(file).study


def planned(file: Path, *folders: Path) -> Plan:
    return prepare(load_config(file).learning_from(folders))


def points(study: Study, split: str = "search") -> dict[str, np.ndarray]:
    return {e.trial.label: e.trial.x for e in study.told if e.trial.split == split and e.trial.x is not None}


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


def test_the_optimizer_knows_the_earlier_candidates_before_its_own(learned: Path, earlier: Path) -> None:
    study, before = Study.read(learned), Study.read(earlier)
    told = Run(learned).optimizer._told
    seen = {number: each for number, each in told.items() if number < 0}
    assert list(told)[: len(seen)] == list(seen), "they come first"
    assert not any(each.proposed for each in seen.values())
    candidates = [e for e in before.told if e.trial.label == "search"]
    known = {tuple(each.x.tolist()): each.losses[0] for each in told.values()}
    for entry in candidates:
        assert known[tuple(entry.trial.x.tolist())] == entry.losses[0]
    own = {tuple(e.trial.x.tolist()) for e in study.told if e.trial.label == "search"}
    assert own.isdisjoint(known.keys() - own)
    assert len(own) == TRIALS - 4 - 9


def test_models_of_the_earlier_study_are_not_scored_again(learned: Path, earlier: Path) -> None:
    study, before = Study.read(learned), Study.read(earlier)
    scored = {e.trial.label: e.losses for e in before.told if e.trial.split == "search"}
    for entry in study.told:
        if entry.trial.split == "search" and entry.trial.merge is not None:
            assert entry.losses == scored[entry.trial.label]
            assert not entry.outcome.seconds
    kinds = [kind for kind, _ in study.events]
    copies = [e for e in study.told if not e.outcome.seconds]
    assert kinds.count("reused") + kinds.count("same_model") == len(copies)
    assert {e.trial.split for e in copies} == {"search", "select", "report"}


def test_a_search_begins_with_the_best_points(learned: Path, earlier: Path) -> None:
    """The best merge is the start, even if it was a baseline; then come those that are not planned anyway."""
    told = [e for e in Study.read(earlier).told if e.trial.split == "search" and e.trial.x is not None and e.losses]
    found = points(Study.read(learned))
    assert found["start"].tolist() == min(told, key=lambda e: e.losses).trial.x.tolist()
    proposed = sorted((e.losses, e.trial.x.tolist()) for e in told if e.trial.label == "search")
    assert [found[f"learned:{n}"].tolist() for n in (1, 2, 3)] == [x for _, x in proposed[:3]]
    assert Run(learned).scored().by_label["trial:2"].kind == "start"


def test_nothing_that_was_learned_counts_as_a_trial_of_the_study(learned: Path) -> None:
    study = Study.read(learned)
    assert len(study.learned) > 30
    assert min(study.entries) == 0
    assert study.completed == TRIALS
    assert study.cost == TRIALS
    data = json.loads(CliRunner().invoke(app, ["status", str(learned), "--json"]).stdout)
    assert data["told"] == TRIALS
    assert {model.trial.number for model in Run(learned).scored().points} <= set(study.entries)


def cut(study: Path, elsewhere: Path, kept: int) -> Path:
    """A copy of a study with its first records only, and the search file that resumes it."""
    shutil.copytree(study, elsewhere / "study")
    ledger = elsewhere / "study" / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:kept]))
    text = study.with_suffix(".yaml").read_text()
    file = elsewhere / "search.yaml"
    file.write_text(text.replace(str(study), str(elsewhere / "study")))
    return file


@pytest.mark.parametrize("point", ["created", "learned_from", "asked", "told"])
def test_a_resume_goes_on_exactly_without_being_told_where_from(learned: Path, tmp_path: Path, point: str) -> None:
    """The search file does not name the earlier study; after a kill right at the beginning, the ledger does."""
    kinds = [json.loads(line)["kind"] for line in (learned / "ledger.jsonl").read_text().splitlines()]
    at = [n for n, kind in enumerate(kinds) if kind == point]
    file = cut(learned, tmp_path, at[-9 if len(at) > 1 else 0] + 1)
    run_here(file, "--resume")
    found, wanted = history(tmp_path / "study"), history(learned)
    assert [line for line in found if line[0] != "opened"] == wanted


def test_the_earlier_study_may_be_gone_on_resume(learned: Path, earlier: Path, tmp_path: Path) -> None:
    file = cut(learned, tmp_path, 70)
    away = earlier.rename(earlier.with_name("away"))
    try:
        run_here(file, "--resume", "--learn-from", earlier)
    finally:
        away.rename(earlier)
    assert Run(tmp_path / "study").selected == Run(learned).selected


@pytest.mark.parametrize("optimizer", ["tpe", "successive_halving", "auto"])
def test_other_optimizers_learn_and_resume_alike(write: Callable[..., Path], earlier: Path, optimizer: str) -> None:
    file = write(f"with-{optimizer}", optimizer=optimizer, budget={"trials": 15}, learn_from=[str(earlier)])
    run_here(file)
    study = load_config(file).study
    assert [number for number in Run(study).optimizer._told if number < 0]
    records = (study / "ledger.jsonl").read_text().splitlines(keepends=True)
    asks = [n for n, line in enumerate(records) if json.loads(line)["kind"] == "asked"]
    before = history(study)
    (study / "ledger.jsonl").write_text("".join(records[: asks[14]]))
    run_here(file, "--resume")
    assert [line for line in history(study) if line[0] != "opened"] == before


def test_losses_are_those_of_the_new_objective(write: Callable[..., Path], earlier: Path) -> None:
    """Relative to the parents, so they are told once these have scores."""
    file = write("worst", objective="chebyshev", learn_from=[str(earlier)], budget={"trials": 14})
    run_here(file)
    run = Run(load_config(file).study)
    scores = {
        e.trial.number: e.outcome.scores
        for e in run.study.told
        if e.trial.origin.is_parent and e.trial.split == "search"
    }
    reference = Reference.among(run.objective, scores.values())
    seen = run.optimizer._told
    for each in run.study.learned:
        if each.observed:
            wanted = reference.told(run.objective.by_task(each.entry.outcome.scores))
            assert seen[each.entry.trial.number].losses.tolist() == wanted.tolist()
    assert sum(number < 0 for number in seen) >= 5


def test_points_move_to_another_space_by_their_coefficients(write: Callable[..., Path], earlier: Path) -> None:
    """A merge with one weight per expert is also one with a weight per layer; beyond narrower ranges there is none."""
    file = write("coarse", space={"kind": "uniform", "ranges": {"weight": [0, 1]}}, budget={"trials": 16})
    run_here(file)
    coarse = load_config(file).study
    plan = planned(write("fine", space={"kind": "layerwise", "ranges": {"weight": [-1, 1]}}), coarse)
    (run,) = plan.learning.runs
    assert run["differences"] == []
    assert run["observations"] == 16 - 9 - 3 - 1, "three are starts, and the uniform average is a baseline"
    old = Run(coarse)
    best = min((e for e in old.study.told if e.trial.x is not None and e.losses), key=lambda e: e.losses)
    coefficients = old.space.decode(best.trial.x).values["weight"]
    start = next(trial.x for trial in plan.planned if trial.label == "start")
    assert plan.space.decode(start).values["weight"][0] == pytest.approx(coefficients[0])
    narrow = planned(write("narrow", space={"kind": "uniform", "ranges": {"weight": [0, 0.6]}}), coarse)
    told = [e for e in old.study.told if e.trial.x is not None and e.trial.merge is None and e.trial.split == "search"]
    outside = [e for e in told if old.space.decode(e.trial.x).values["weight"].max() > 0.6]
    assert outside
    kept = {tuple(old.space.decode(e.trial.x).values["weight"][0].round(9)) for e in told if e not in outside}
    placed = [each.entry.trial.x for each in narrow.learning.learned if each.observed]
    placed += [x for label, x in narrow.learning.starts.items() if label != "start"]
    assert {tuple(narrow.space.decode(x).values["weight"][0].round(9)) for x in placed} <= kept


def test_of_other_tasks_only_the_best_points_are_used(write: Callable[..., Path], earlier: Path) -> None:
    tasks = {"three": {"evaluator": "synthetic", "task": 2, "n_examples": 200}}
    file = write("other", tasks=tasks, learn_from=[str(earlier)], budget={"trials": 16})
    said = CliRunner().invoke(app, ["check", str(file)]).stdout
    assert "where to begin: its best candidates are scored first" in said
    assert "other tasks or options: three" in said
    run_here(file)
    study, before = Study.read(load_config(file).study), Run(earlier).scored()
    assert not study.learned
    found = points(study)
    candidates = sorted((model for model in before.points if model.is_candidate), key=lambda model: model.rank)
    assert found["start"].tolist() == candidates[0].trial.x.tolist()
    assert len(set(found["start:default"].tolist())) == 1
    assert "learned:1" in found
    scored = {e.trial.label for e in study.told if e.trial.split == "search" and e.outcome.seconds}
    assert {"start", "learned:1", "learned:2", "base"} <= scored


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "bfloat16"}, "dtype was the default"),
        ({"tasks": {"one": {"evaluator": "synthetic", "n_examples": 100}}}, "other tasks or options: one"),
        ({"split": {"search": 0.5, "select": 0.2, "report": 0.3, "salt": "x"}}, "other examples on the search split"),
        ({"method": {"kind": "task_arithmetic", "normalize": True}}, "other options of task_arithmetic"),
    ],
)
def test_scores_count_only_for_the_same_models_tasks_and_settings(
    write: Callable[..., Path], earlier: Path, changes: dict[str, Any], reason: str
) -> None:
    (run,) = planned(write("changed", **changes), earlier).learning.runs
    assert reason in run["differences"]
    assert (run["observations"], run["scores"]) == (0, 0)


def test_scores_of_the_report_split_stand_for_those_of_the_same_tasks_only(
    write: Callable[..., Path], earlier: Path
) -> None:
    humor = {"humor": {"evaluator": "synthetic", "task": 5, "n_examples": 40}}
    splits = [
        {each.entry.trial.split for each in planned(write("humor", **given), earlier).learning.learned}
        for given in ({}, {"report_only": humor})
    ]
    assert splits == [{"search", "select", "report"}, {"search", "select"}]


def test_other_models_are_no_evidence(write: Callable[..., Path], earlier: Path, folder: Path) -> None:
    shutil.copytree(folder / "models", folder / "others")
    (folder / "others" / "b.safetensors").write_bytes((folder / "others" / "a.safetensors").read_bytes())
    experts = {name: str(folder / "others" / f"{name}.safetensors") for name in ("a", "b")}
    (run,) = planned(write("models", experts=experts), earlier).learning.runs
    assert run["differences"] == ["other models"]
    moved = {name: str(folder / "others" / f"{name}.safetensors") for name in ("a",)}
    same = planned(write("moved", experts={**moved, "b": str(folder / "models" / "b.safetensors")}), earlier)
    assert same.learning.runs[0]["differences"] == [], "the same files in another place"


def test_masks_of_another_seed_make_other_models(write: Callable[..., Path]) -> None:
    file = write("random", method="dare_linear", space="uniform", budget={"trials": 2})
    run_here(file)
    study = load_config(file).study
    again = planned(write("random-again", method="dare_linear", space="uniform"), study).learning.runs[0]
    other = planned(write("random-other", method="dare_linear", space="uniform", seed=5), study).learning.runs[0]
    assert again["differences"] == []
    assert other["differences"] == ["another seed, and dare_linear draws masks"]


def test_baselines_outside_of_the_space_are_known_by_their_recipe(write: Callable[..., Path]) -> None:
    file = write("ties", method="ties", space="uniform", budget={"trials": 13})
    run_here(file)
    again = write("ties-again", method="ties", space="uniform", budget={"trials": 14}, seed=8)
    run_here(again, "--learn-from", load_config(file).study)
    study = Study.read(load_config(again).study)
    outside = [e for e in study.told if e.trial.split == "search" and e.trial.merge is not None and e.trial.x is None]
    assert len(outside) > 5
    assert not any(e.outcome.seconds for e in outside)


def test_every_method_of_a_portfolio_begins_at_its_best_point(write: Callable[..., Path]) -> None:
    methods = ["task_arithmetic", "ties"]
    file = write("methods", method=methods, space="uniform", optimizer="random", budget={"trials": 18})
    run_here(file)
    old = Run(load_config(file).study)
    plan = planned(write("methods-again", method=methods, space="uniform", optimizer="random"), load_config(file).study)
    starts = {trial.label: trial.x for trial in plan.planned if trial.label in ("start", "start:ties")}
    for number, label in enumerate(("start", "start:ties")):
        assert plan.space.method_at(starts[label]) == number
        scored = [e for e in old.study.told if e.trial.split == "search" and e.trial.x is not None and e.losses]
        own = [e for e in scored if plan.space.method_at(e.trial.x) == number and not e.trial.origin.is_parent]
        best = min(own, key=lambda e: e.losses)
        part = plan.space.part(number)
        assert starts[label][part].tolist() == best.trial.x[part].tolist()


def test_what_cannot_be_learned_from_is_refused(write: Callable[..., Path], earlier: Path, folder: Path) -> None:
    file = write("refused")
    for command in ("check", "plan", "search"):
        assert "there is no study in" in refused(command, file, "--learn-from", folder / "nowhere")
    other = write("other-method", method="ties")
    assert "merges by task_arithmetic, and those of this search by ties" in refused(
        "check", other, "--learn-from", earlier
    )
    turned = {name: str(folder / "models" / f"{name}.safetensors") for name in ("b", "a")}
    assert "experts are in the order a, b, and here b, a" in refused(
        "check", write("turned", experts=turned), "--learn-from", earlier
    )
    one = {"a": str(folder / "models" / "a.safetensors")}
    said = refused("check", write("fewer", experts=one), "--learn-from", earlier)
    assert "have 10 coefficients, and over the models of this search its space has 5" in said


def test_a_study_without_scores_teaches_nothing(write: Callable[..., Path], folder: Path) -> None:
    empty = folder / "empty"
    Study.create(empty, load_config(write("empty")).identity(), {}).close()
    assert "has no scored candidate" in refused("check", write("nothing"), "--learn-from", empty)


def test_a_study_that_has_begun_keeps_what_it_learned(
    write: Callable[..., Path], learned: Path, earlier: Path, folder: Path
) -> None:
    file = write("learned", seed=4, learn_from=[str(folder / "another")])
    assert "has learned from" in refused("check", file)
    write("learned", seed=4)
    begun = load_config(write("earlier")).study
    assert "began without learning from other studies" in refused(
        "search", folder / "earlier.yaml", "--resume", "--learn-from", learned
    )
    assert begun == earlier
    again = write("learned", seed=4, learn_from=[str(earlier)])
    assert CliRunner().invoke(app, ["check", str(again)]).exit_code == 0
    write("learned", seed=4)


def test_examples_can_be_added_to_a_study_that_learned(write: Callable[..., Path]) -> None:
    """What was learned is told with the mean change of the extended models; its scores stand for nothing any more."""
    tasks = {"one": {"evaluator": "synthetic", "n_examples": 300, "limit": 200}}
    old = write("small", tasks=tasks, budget={"trials": 16})
    run_here(old)
    run_here(write("grown", tasks=tasks, learn_from=[str(load_config(old).study)], budget={"trials": 15}))
    file = write("grown", tasks={"one": {**tasks["one"], "limit": 260}}, budget={"trials": 22})
    run_here(file, "--resume")
    run = Run(load_config(file).study)
    assert run.study.reusable == []
    told = run.optimizer._told
    before = {each.entry.trial.number: each.entry for each in run.study.learned if each.observed}
    changes = {told[n].losses[0] - run.objective.losses(entry.outcome.scores)[0] for n, entry in before.items()}
    assert np.ptp(list(changes)) < 1e-12
    assert all(told[n].share < 1.0 for n in before)


def test_the_place_of_a_mistake_is_named(write: Callable[..., Path], folder: Path) -> None:
    file = write("placed", learn_from=[str(folder / "nowhere")])
    with pytest.raises(ConfigError, match=r"placed\.yaml:\d+: learn_from: there is no study"):
        planned(file)
