"""Examples that are added to a study's tasks: leading models are scored on them, and the search goes on, exactly."""

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.budget import evaluations
from evomerge.cli import app
from evomerge.config import ConfigError, load_config
from evomerge.feedback import Feedback, Recorder
from evomerge.launch.checks import read_tasks
from evomerge.launch.growth import added
from evomerge.launch.pinned import examples_of
from evomerge.launch.plan import prepare
from evomerge.objective import Objective
from evomerge.optimizers.base import Observation
from evomerge.plugins import PluginSpec
from evomerge.results.finalists import FINALISTS
from evomerge.run import Run
from evomerge.study import Entry, Study, StudyError
from tests.toys import search_file

OBJECTIVE = Objective({"one": 1.0, "two": 1.0})
LINES = "ledger.jsonl"


def write(folder: Path, limit: int, *, trials: int = 16, **changes: object) -> Path:
    """A search over two tasks with `limit` examples each, in all splits."""
    folder.mkdir(exist_ok=True)
    tasks = {
        name: {"evaluator": "synthetic", "task": n, "n_examples": 400, "noise": "binomial", "limit": limit}
        for n, name in enumerate(OBJECTIVE.weights)
    }
    settings: dict[str, Any] = search_file(folder, budget={"trials": trials}, **{"tasks": tasks, **changes})
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings), encoding="utf-8")
    return file


def run(file: Path, *, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["search", str(file), "--resume", "--json"])
    assert done.exit_code == expect, done.output
    return done.output


def study_of(file: Path) -> Study:
    return Study.read(file.parent / "study")


def story(study: Study) -> list[tuple[object, ...]]:
    """All that a ledger says but times, of whole trials and parts."""
    ended = [
        (
            e.trial.number,
            e.trial.label,
            e.trial.split,
            e.trial.extends,
            e.trial.cost,
            None if e.trial.x is None else e.trial.x.tobytes(),
            e.losses,
            {t: (s.example_ids, s.values.tobytes()) for t, s in (e.outcome.scores if e.outcome else {}).items()},
        )
        for e in study.ended
    ]
    # A look at the report split is recorded again if no trial on it followed.
    return [*ended, *((kind, repr(data)) for kind, data in study.events if kind not in ("opened", "report_split_read"))]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search file of a finished study that was given twice the examples, and went on to its end."""
    folder = tmp_path_factory.mktemp("grown")
    write(folder, 100, trials=30)
    run(folder / "search.yaml")
    shutil.copytree(folder / "study", folder / "before")
    write(folder, 200, trials=30)
    run(folder / "search.yaml")
    return folder / "search.yaml"


def test_leaders_and_baselines_are_scored_on_the_added_examples_only(grown: Path) -> None:
    study, before = study_of(grown), Study.read(grown.parent / "before")
    growth = study.growths[-1]
    whole = {e.trial.extends: e for e in study.told if e.trial.extends is not None}
    assert set(whole) == set(growth.extends)
    ranked = sorted((e for e in before.told if e.trial.label == "search" and e.losses), key=lambda e: e.losses or ())
    assert {e.trial.number for e in ranked[: FINALISTS - 1]} <= set(growth.extends)
    baselines = {e.trial.number for e in before.told if e.trial.merge is not None and e.trial.split == "search"}
    assert baselines <= set(growth.extends)
    bench = prepare(load_config(grown)).spec()
    for number, entry in whole.items():
        first = before.entries[number].outcome
        assert first is not None
        assert entry.outcome is not None
        again = bench.run(before.entries[number].trial).scores
        for task, scores in entry.outcome.scores.items():
            assert scores.example_ids == growth.new[task] == again[task].example_ids
            assert scores.values.tolist() == again[task].values.tolist()
            assert len(first.scores[task].values) == len(growth.old[task])
        assert entry.losses == tuple(OBJECTIVE.losses(again))
        assert entry.trial.cost == pytest.approx(1 - growth.share)


def test_what_was_not_extended_is_a_part_and_never_a_finalist(grown: Path) -> None:
    study = study_of(grown)
    growth = study.growths[-1]
    left = {n for n, e in study.parts.items() if e.trial.origin.value == "search" and n not in growth.extends}
    assert left
    assert all(study.parts[n].losses is None for n in left)
    numbers = {int(e.trial.label.removeprefix("trial:")) for e in study.told if e.trial.label.startswith("trial:")}
    assert numbers
    assert numbers <= study.entries.keys()
    for split in ("search", "select", "report"):
        for entry in study.told:
            if entry.trial.split == split and entry.outcome is not None and entry.losses is not None:
                ids = {task: scores.example_ids for task, scores in entry.outcome.scores.items()}
                assert ids == growth.examples[split]


def test_no_example_of_the_old_search_split_is_selected_or_reported_on(grown: Path) -> None:
    growth = study_of(grown).growths[-1]
    for task, old in growth.old.items():
        assert set(old) < set(growth.new[task])
        assert set(growth.new[task]).isdisjoint(growth.examples["select"][task])
        assert set(growth.new[task]).isdisjoint(growth.examples["report"][task])


def test_the_budget_counts_the_work_of_before_in_evaluations_of_the_larger_split(grown: Path) -> None:
    study, before = study_of(grown), Study.read(grown.parent / "before")
    share, n_extended = study.growths[-1].share, len(study.growths[-1].extends)
    # What is recommended beyond the budget is extended, and still counts as nothing.
    free = sum(before.entries[n].trial.label.startswith("recommended") for n in study.growths[-1].extends)
    new = [e for e in study.told if e.trial.label == "search" and e.trial.extends is None]
    spent = share * evaluations(before) + (1 - share) * (n_extended - free) + len(new)
    assert evaluations(study) == pytest.approx(spent)
    assert 30 <= evaluations(study) < 31


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        ("cma_es", {"racing": "aggressive"}),
        ("asha", {}),
        pytest.param("auto", {}, marks=pytest.mark.slow),
        ("auto", {"objective": "pareto"}),
        pytest.param("tpe", {"objective": "chebyshev"}, marks=pytest.mark.slow),
    ],
)
def test_a_search_that_is_cut_anywhere_after_the_growth_goes_on_as_if_it_had_not_been(
    optimizer: str, changes: dict[str, object], tmp_path: Path
) -> None:
    put = partial(write, optimizer=optimizer, **changes)
    file = put(tmp_path, 240)
    run(file)
    n_before = len((tmp_path / "study" / LINES).read_text().splitlines())
    put(tmp_path, 300, trials=20)
    run(file)
    wanted = story(study_of(file))
    lines = (tmp_path / "study" / LINES).read_text(encoding="utf-8").splitlines(keepends=True)
    rng = np.random.default_rng(0)
    for cut in sorted(rng.integers(n_before + 1, len(lines), 2).tolist()):
        (tmp_path / "study" / LINES).write_text("".join(lines[:cut]), encoding="utf-8")
        run(file)
        assert story(study_of(file)) == wanted


def test_examples_can_be_added_again_and_again(tmp_path: Path) -> None:
    for limit, trials in ((100, 16), (140, 18), (200, 20)):
        file = write(tmp_path, limit, trials=trials)
        run(file)
    study = study_of(file)
    assert len(study.growths) == 2
    first, second = study.growths
    assert first.new == second.old
    assert "the study" not in run(file)
    told = {e.trial.number: e for e in study.told}
    assert all(told[n].outcome is not None for n in told)
    # Trials that were extended twice.
    twice = {n for n in second.extends if study.parts[n].trial.extends in first.extends}
    assert twice


def test_what_ran_when_examples_were_added_is_given_up_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    file = write(tmp_path, 100)
    run(file)
    with closing(Study.open(tmp_path / "study")) as study:
        number = study.next_number
        start = study.asked(1).trial
        study.ask(start.changed(number=number, x=np.full_like(start.x, 0.123), label="search"))
    write(tmp_path, 200)
    run(file)
    study = study_of(file)
    assert study.parts[number].outcome is None
    assert study.parts[number].trial.cost == 0
    assert number not in {trial.number for trial in study.unfinished}
    assert min(e.trial.number for e in study.ended_since) > number


def told(study: Study, growths: int) -> list[Observation]:
    """What an optimizer of whole candidates is told, with some of the growths."""
    recorder = Recorder()
    feedback = Feedback(recorder, OBJECTIVE, ())
    ended = study.ended if growths == len(study.growths) else study.growths[growths].before
    feedback._replay(study.growths[:growths], ended, ())
    return recorder.told


def test_an_optimizer_is_told_the_candidates_of_before_again_on_one_scale(grown: Path) -> None:
    study = study_of(grown)
    growth = study.growths[-1]
    before, after = ({o.number: o for o in told(study, n)} for n in (0, 1))
    assert before.keys() <= after.keys()
    assert list(after)[: len(before)] == list(before)
    new = {e.trial.extends: e.losses for e in study.told if e.trial.extends is not None}
    losses = {n: o.losses for n, o in before.items() if o.losses is not None}
    changes = [np.array(new[n]) - losses[n] for n in growth.extends if n in losses]
    assert np.abs(changes).max() > 0
    change = np.mean(changes, axis=0)
    for number, observation in after.items():
        if number in new and number in before:
            assert observation.losses is not None
            assert observation.losses.tolist() == list(new[number] or ())
            assert (observation.share, len(observation.examples)) == (1.0, 2)
        elif number in losses:
            assert observation.losses is not None
            assert np.allclose(observation.losses, losses[number] + change, atol=1e-12)
            assert (observation.share, observation.examples) == (growth.share, ())
        assert np.array_equal(observation.x, before.get(number, observation).x)


def test_nothing_is_told_before_all_extended_models_have_ended(grown: Path) -> None:
    study = study_of(grown)
    last = max(i for i, e in enumerate(study.ended_since) if e.trial.extends in study.growths[-1].extends)
    recorder = Recorder()
    feedback = Feedback(recorder, OBJECTIVE, ())
    n_before = len(study.growths[-1].before)
    feedback._replay(study.growths, study.ended[: n_before + last], ())
    assert feedback.waiting
    assert not recorder.told
    entry: Entry = study.ended_since[last]
    feedback.take(entry)
    assert not feedback.waiting
    assert recorder.told


def test_removed_or_changed_examples_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, 100)
    run(file)
    write(tmp_path, 90)
    assert "adding only new ones" in run(file, expect=2)
    tasks = {
        name: {"evaluator": "synthetic", "task": n, "n_examples": 400, "noise": "binomial", "seed": 1, "limit": 200}
        for n, name in enumerate(OBJECTIVE.weights)
    }
    write(tmp_path, 100, tasks=tasks)
    assert "seed" in run(file, expect=2)


@pytest.mark.parametrize("limit", [200, 300])
def test_lines_may_not_be_added_to_a_file_of_solved_examples_but_its_limit_may_be_raised(
    limit: int, grown: Path
) -> None:
    config, study = load_config(grown), Study.read(grown.parent / "study")
    shown = PluginSpec("exact_match", {"file": "one.jsonl", "num_fewshot": 2, "limit": limit})
    changed = config.model_copy(update={"tasks": {**config.tasks, "one": shown}})
    ids = examples_of(config, read_tasks(config))
    more = {key: (*names, f"new {key}") for key, names in ids.items()}
    if limit == 300:
        assert added(study, more, changed, OBJECTIVE) is not None
        return
    with pytest.raises(ConfigError, match="num_fewshot"):
        added(study, more, changed, OBJECTIVE)


def test_check_and_plan_say_what_will_be_extended_and_what_it_costs(tmp_path: Path) -> None:
    file = write(tmp_path, 100)
    run(file)
    write(tmp_path, 200, trials=20)
    config = load_config(file)
    planned = prepare(config).added
    assert planned is not None
    for command in ("check", "plan"):
        done = CliRunner().invoke(app, [command, str(file)])
        assert done.exit_code == 0, done.output
        said = " ".join(done.output.split())
        assert f"{planned.evaluations:.1f} evaluations" in said
        assert all(name in said for name in planned.leaders)
    assert not study_of(file).growths  # nothing is written
    run(file)
    study = study_of(file)
    assert study.growths[0].extends == planned.extends
    again = prepare(load_config(file))
    assert again.added is None
    kept = load_config(tmp_path / "study" / "search.yaml")
    assert kept.tasks["one"].options["limit"] == 200
    assert study.configuration["tasks"]["one"]["limit"] == 200


def test_a_candidate_of_before_is_no_merge_to_choose_and_its_extension_is(grown: Path) -> None:
    study = Run(grown.parent / "study")
    growth = study.study.growths[-1]
    left = next(n for n, e in study.study.parts.items() if e.trial.label == "search" and n not in growth.extends)
    with pytest.raises(StudyError, match="some of the examples only"):
        study.entry(left)
    extended = next(e for e in study.study.told if e.trial.extends is not None and e.trial.label == "search")
    assert study.entry(extended.trial.number) is not None
