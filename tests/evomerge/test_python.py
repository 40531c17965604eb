"""The Python interface: what the README and the docstrings show runs as it is written; importing it costs nothing."""

import doctest
import importlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import evomerge
from evaluators import _strict_yaml as strict_yaml
from evomerge.api import SearchPaused, _raise_for
from evomerge.loop import Ending
from evomerge.study import StudyError, StudyExists
from tests.evomerge.report.fronts import write_front
from tests.toys import search_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search file over the toys, as a reader of the README has one."""
    folder = tmp_path_factory.mktemp("lab")
    settings = search_file(folder, study="runs/search", budget={"trials": 10}, space="uniform")
    (folder / "search.yaml").write_text(strict_yaml.dump(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shown(lab: Path) -> Iterator[dict[str, Any]]:
    """The names that the example in the README leaves behind, run in that folder."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(example.splitlines()) <= 10
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lab)
        exec(example, names)
        yield names


def test_the_example_in_the_readme_searches_and_merges(
    shown: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = shown["run"]
    assert run.best.label == run.selected
    assert run.verdict.startswith(run.selected)
    assert run.recipe(0).table.values["weight"].shape == (1, 2)
    assert "report split" in str(run.table())
    assert load_file("merged/model.safetensors").keys() == load_file("models/base.safetensors").keys()


@pytest.mark.parametrize("name", ["evomerge", "evomerge.api", "evomerge.run", "evomerge.results.table"])
def test_the_examples_of_the_interface_run(shown: dict[str, Any], name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0


def test_a_finished_study_is_not_begun_again(shown: dict[str, Any]) -> None:
    with pytest.raises(StudyExists):
        evomerge.search("search.yaml")


def test_a_search_runs_in_a_thread_too(shown: dict[str, Any]) -> None:
    said: list[str] = []
    with ThreadPoolExecutor() as threads:
        run = threads.submit(evomerge.search, "search.yaml", resume=True, say=said.append).result()
        assert run.verdict == shown["run"].verdict
        assert "is finished: the budget is spent (10 of 10 trials)" in said[-1]
        more = evomerge.load_config("search.yaml").with_budget(trials=11, hours=None)
        run = threads.submit(evomerge.search, more, resume=True, say=said.append).result()
    assert run.study.completed == 11
    assert any(line.endswith(": 10 completed, 0 re-queued") for line in said), said


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; import evomerge; spent = time.process_time()\n"
        "names = {'torch', 'ray', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "evomerge.Study, evomerge.Recipe, evomerge.Merge, evomerge.load_config, evomerge.Run\n"
        "print(names or '', 'torch' in sys.modules, 'ray' in sys.modules, spent < 0.3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == ["False", "False", "True"], done.stdout + done.stderr


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(evomerge.__all__) <= set(dir(evomerge))
    assert all(getattr(evomerge, name) is not None for name in evomerge.__all__)
    assert callable(evomerge.search)
    with pytest.raises(AttributeError, match=r"no attribute 'serch'; expected one of .*search"):
        _ = evomerge.serch  # type: ignore[attr-defined]


def test_a_table_shows_names_and_hides_none_of_their_characters_in_html(tmp_path: Path) -> None:
    study = write_front(tmp_path / "night", {"base": (2, 2), "parent:<b>&": (8, 3), 5: (9, 1)})
    table = evomerge.Run.of(study).table()
    assert [row.label for row in table] == ["parent:<b>&", "trial:2", "base"]
    assert "* | parent:<b>& | 0.8 [" in " | ".join(str(table).split("\n")[2].split(None, 2)).replace("  ", " ")
    html = table._repr_html_()
    assert "<td>parent:&lt;b&gt;&amp;</td>" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 1 + len(table) == 4
    with pytest.raises(StudyError, match="split is one of search, select, report; got 'test'"):
        evomerge.Run.of(study).table("test")


def test_an_empty_split_has_an_empty_table(tmp_path: Path) -> None:
    run = evomerge.Run.of(write_front(tmp_path / "night", {}))
    assert "Nothing is scored on the search split yet." in str(run.table())
    assert "<tbody></tbody>" in run.table()._repr_html_()
    assert (run.front, run.best) == ((), None)


def test_what_ends_a_search_early_ends_the_script() -> None:
    _raise_for(Ending("done"), Path("night"))
    _raise_for(Ending("stopped"), Path("night"))  # drained: the run is returned
    with pytest.raises(SearchPaused, match=r"the disk is full\. Resume the study in night"):
        _raise_for(Ending("paused", "the disk is full."), Path("night"))
    with pytest.raises(KeyboardInterrupt):
        _raise_for(Ending("stopped", signal=signal.SIGINT), Path("night"))
    with pytest.raises(SystemExit) as ended:
        _raise_for(Ending("stopped", signal=signal.SIGTERM), Path("night"))
    assert ended.value.code == 143
