"""More budget than the search file gives: what may be written, and the limits that follow from what was spent."""

from pathlib import Path

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.budget import evaluations
from evomerge.config import ConfigError, load_config
from evomerge.launch import launch
from evomerge.launch.extension import Extension
from evomerge.launch.plan import prepare
from evomerge.study import Study
from tests.toys import search_file


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("50", Extension(trials=50)),
        ("2h", Extension(hours=2)),
        ("0.5 h", Extension(hours=0.5)),
        ("90min", Extension(hours=1.5)),
    ],
)
def test_evaluations_or_a_time(text: str, more: Extension) -> None:
    assert Extension.read(text) == more


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "0h", "2 hours", "h", "1e3", "2d"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--extend: expected evaluations such as 50, or a time .*; got"):
        Extension.read(text)


def test_a_search_that_is_done_goes_on_by_as_much(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(tmp_path, optimizer="random", budget={"trials": 14, "hours": 1.0})))
    config = load_config(file)
    with pytest.raises(ConfigError, match="there is no study"):
        Extension(trials=3).of(config)
    launch.run(config, prepare(config), resume=False)
    longer = Extension(trials=3).of(config)
    assert (longer.budget.trials, longer.budget.hours, longer.budget.until) == (17, None, None)
    launch.run(longer, prepare(longer), resume=True)
    study = Study.read(config.study)
    assert evaluations(study) == 17
    paid = config.budget.model_copy(update={"money": 1.0, "price_per_hour": 1.0})
    budget = Extension(hours=2).of(config.model_copy(update={"budget": paid})).budget
    assert budget.hours == budget.most_hours == pytest.approx(2 + study.active_seconds / 3600)
