"""Tasks that are only reported: scored at the end, shown as such, and without any say in the search."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import SPLITS
from evaluators.synthetic import Synthetic
from evomerge.bench import report_only_ids
from evomerge.cli import app
from evomerge.config import ConfigError, load_config
from evomerge.results.cost import Scorings, selection_seconds
from evomerge.run import Run
from evomerge.study import Study
from tests.evomerge.searches import history
from tests.toys import search_file

ONE = {"one": {"evaluator": "synthetic", "task": 0, "n_examples": 200}}
HUMOR = {"evaluator": "synthetic", "task": 5, "n_examples": 40}


def write(folder: Path, **changes: Any) -> Path:
    settings = search_file(folder, optimizer="random") | {"budget": {"trials": 14}} | changes
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings), encoding="utf-8")
    return file


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search with a task that is only reported."""
    folder = tmp_path_factory.mktemp("reported")
    done = run("search", write(folder, tasks=ONE, report_only={"humor": HUMOR}))
    assert done.exit_code == 0, done.output
    return folder / "study"


def test_only_the_report_split_is_scored_on_it_with_all_examples(searched: Path) -> None:
    by_split = {split: set() for split in SPLITS}
    for entry in Study.read(searched).told:
        if entry.losses is not None and entry.outcome is not None:
            by_split[entry.trial.split] |= {tuple(entry.outcome.scores)}
            if entry.trial.split == "report":
                assert len(entry.outcome.scores["humor"].values) == 40
    assert by_split == {"search": {("one",)}, "select": {("one",)}, "report": {("one", "humor")}}


def test_every_parent_is_reported(searched: Path) -> None:
    """One that is behind on all searched tasks, and so no finalist, may be the best of them here."""
    told = Study.read(searched).told
    selected, reported = ({e.trial.label for e in told if e.trial.split == split} for split in ("select", "report"))
    parents = {"base", "parent:a", "parent:b"}
    assert not parents <= selected
    assert parents <= reported


def test_the_search_and_its_choice_are_those_without_it(searched: Path, tmp_path: Path) -> None:
    assert run("search", write(tmp_path, tasks=ONE)).exit_code == 0
    before, after = (
        [line for line in history(folder) if len(line) == 6 and line[2] != "report"]
        for folder in (tmp_path / "study", searched)
    )
    assert before == after
    assert Run(tmp_path / "study").selected == Run(searched).selected


def test_verdict_status_and_json_show_it_as_reported_only(searched: Path) -> None:
    result = json.loads(run("status", searched, "--json").stdout)["result"]
    (humor,) = result["report_only"]
    winner, best = result["winner"], humor["best_parent"]
    assert humor["models"].keys() == {row["label"] for row in result["standings"]}
    gap = humor["models"][winner]["mean"] - humor["models"][best]["mean"]
    assert humor["winner_ahead"]["mean"] == pytest.approx(gap)
    assert best == max(("base", "parent:a", "parent:b"), key=lambda label: humor["models"][label]["mean"])
    assert "humor" not in result["standings"][0]["tasks"]
    assert "Reported only, neither searched nor selected on: humor 0." in result["verdict"]
    shown = " ".join(run("status", searched).stdout.split())
    assert "(reported only)" in shown


def test_the_page_and_an_export_show_it(searched: Path, tmp_path: Path) -> None:
    assert run("report", searched, "-o", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('<table id="report-only">') == 1
    assert "Reported only: neither searched nor selected on" in page
    assert run("export", searched, "-o", tmp_path / "merged").exit_code == 0
    assert "humor (reported only)" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")


def test_check_and_plan_name_and_count_it(searched: Path) -> None:
    file = searched.parent / "search.yaml"
    assert "task humor: 40 examples; reported only" in run("check", file).stdout
    data = json.loads(run("plan", file, "--json").stdout)
    assert data["report_only"] == {"humor": 40}
    examples = {"one": {"search": 10, "select": 5, "report": 5}}
    seconds = {"evaluate:one": 20.0}
    count = Scorings(search=0, select=1, report=3)
    without, with_it = (selection_seconds(count, seconds, examples, 1, more) for more in (0, 40))
    assert with_it - without == pytest.approx(1.1 * 3 * 40 * 2.0)


def test_a_finished_study_refuses_other_reported_tasks(searched: Path) -> None:
    given = {"report_only.humor.task: 5 -> 6": {"humor": {**HUMOR, "task": 6}}, "-> (not there)": {}}
    for said, tasks in given.items():
        file = write(searched.parent, tasks=ONE, report_only=tasks)
        for command in (["check", file], ["search", file, "--resume"]):
            done = run(*command)
            assert done.exit_code == 2
            assert said in " ".join(done.stderr.split())
    write(searched.parent, tasks=ONE, report_only={"humor": HUMOR})


def test_it_may_be_added_before_models_are_reported(tmp_path: Path) -> None:
    file = write(tmp_path, budget={"trials": 12})
    study = tmp_path / "study"
    assert run("search", file).exit_code == 0
    ledger = study / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if '"split":"select"' in line.replace(" ", ""))
    ledger.write_text("".join(lines[:first]))
    write(tmp_path, budget={"trials": 12}, report_only={"humor": HUMOR})
    assert run("search", file, "--resume").exit_code == 0
    assert [each.task for each in Run(study).selection.report_only] == ["humor"]
    assert load_config(study / "search.yaml").report_only.keys() == {"humor"}


def test_examples_that_a_task_was_searched_on_are_left_out(tmp_path: Path) -> None:
    """The same file with another metric is reported on the report split only."""
    task, shares = Synthetic(task=0, n_examples=200), (0.5, 0.2, 0.3)
    found = report_only_ids(Synthetic(task=0, n_examples=200, noise="binomial"), [task], shares)
    assert 40 <= len(found) <= 80
    assert (
        report_only_ids(Synthetic(task=1, n_examples=30), [task], shares)
        == Synthetic(task=1, n_examples=30).example_ids
    )
    file = write(tmp_path, report_only={"again": {"evaluator": "synthetic", "n_examples": 200, "noise": "binomial"}})
    said = run("check", file).stdout
    assert (
        f"task 'again' is reported on {len(found)} examples: {200 - len(found)} of its 200 examples are also on" in said
    )


def test_a_task_without_an_example_of_its_own_is_refused(tmp_path: Path) -> None:
    salt = next(
        salt
        for salt in "abcdefgh"
        if not report_only_ids(Synthetic(n_examples=1), [Synthetic()], (0.5, 0.2, 0.3), salt)
    )
    split = {"search": 0.5, "select": 0.2, "report": 0.3, "salt": salt}
    done = run(
        "check", write(tmp_path, split=split, report_only={"again": {"evaluator": "synthetic", "n_examples": 1}})
    )
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "report_only.again: no example is left to report, since 1 of its 1 example" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"report_only": {"one": HUMOR}}, "one is also one of the `tasks`"),
        ({"tasks": {"one": {**HUMOR, "report_only": True}}}, "move the task there"),
        ({"report_only": {"humor": {"evaluator": "sinthetic"}}}, "report_only.humor: No evaluator"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.yaml:") as error:
        load_config(write(tmp_path, **changes))
    assert said in str(error.value)
