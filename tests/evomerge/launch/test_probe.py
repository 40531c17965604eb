"""Candidates that are scored before a search, for the time that it will take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import Bench
from evomerge.config import SearchConfig, load_config
from evomerge.launch.plan import LaunchError, prepare
from evomerge.launch.probe import ENOUGH, MOST, probe
from evomerge.trial import Outcome, Trial
from tests.toys import search_file


def config(folder: Path, **changes: object) -> SearchConfig:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **changes)), encoding="utf-8")
    return load_config(file)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """All trials that a bench of this process runs."""
    trials: list[Trial] = []
    run: Callable[[Any, Trial], Outcome] = Bench.run

    def listed(self: Any, trial: Trial) -> Outcome:
        trials.append(trial)
        return run(self, trial)

    monkeypatch.setattr(Bench, "run", listed)
    return trials


def test_no_candidate_finds_its_weights_merged(tmp_path: Path, seen: list[Trial]) -> None:
    search, said = config(tmp_path), list[str]()
    found = probe(search, prepare(search), said.append)
    assert said == ["starting serial workers", "scoring a parent", "scoring candidates"]
    assert [trial.label for trial in seen[:2]] == ["parent:a", "start"]
    assert len({None if trial.x is None else trial.x.tobytes() for trial in seen[1:]}) == len(seen) - 1 == MOST
    assert (found.workers, found.candidates) == (1, MOST)
    assert set(found.scores) == {"parent:a", "start"}
    assert set(found.stages) == {"merge", "evaluate:one", "evaluate:two"}
    assert not (tmp_path / "study").exists()


def test_time_is_that_of_candidates_not_of_the_first_model(tmp_path: Path) -> None:
    slow = {"evaluator": "synthetic", "task": 0, "n_examples": 200, "delay": 0.05}
    search = config(tmp_path, tasks={"slow": slow})
    found = probe(search, prepare(search))
    assert 0.05 <= found.stages["evaluate:slow"] < ENOUGH
    assert found.first >= 0.05


def test_a_model_that_cannot_be_scored_is_an_error(tmp_path: Path) -> None:
    broken = {"evaluator": "callable", "function": f"{__name__}:fail", "examples": ["a", "b", "c", "d", "e", "f"]}
    search = config(tmp_path, tasks={"broken": broken})
    with pytest.raises(LaunchError, match=r"A candidate could not be scored: .*no weights are good enough"):
        probe(search, prepare(search))


def fail(model: Any, ids: tuple[str, ...]) -> list[float]:
    raise ValueError("no weights are good enough")
