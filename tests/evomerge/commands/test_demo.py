"""The demo: its search file, its folder and the commands that it runs."""

import os
import shlex
import signal
import threading
from importlib import import_module
from pathlib import Path

import pytest
import typer

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.commands import subcommand
from evomerge.commands.demo import DemoError, begin_demo, steps_of_demo
from evomerge.own_packages import TINY_MODELS
from experiments.tiny_models.sets import DEMO
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


def test_the_search_is_that_of_the_quickstart(tmp_path: Path) -> None:
    begin_demo(tmp_path / "demo")
    text = (tmp_path / "demo/search.yaml").read_text(encoding="utf-8")
    quickstart = (ROOT / "experiments/00-quickstart/search.yaml").read_text(encoding="utf-8")
    expected = strict_yaml.load(quickstart.replace("../../runs/quickstart", "run").replace("../../", "")).data
    assert strict_yaml.load(text).data == expected


def test_its_models_are_those_of_the_experiments() -> None:
    assert repr(import_module(f"{TINY_MODELS}.sets").DEMO.experts) == repr(DEMO.experts)
    assert Path(str(import_module(TINY_MODELS).__file__)).parent == ROOT / "experiments/tiny_models"


def test_only_an_empty_folder_or_one_of_its_own_is_used(tmp_path: Path) -> None:
    begin_demo(tmp_path)
    (tmp_path / "search.yaml").write_text("changed")
    begin_demo(tmp_path)
    assert (tmp_path / "search.yaml").read_text() == "changed", "a search file that was edited stays"
    (tmp_path / "search.yaml").rename(tmp_path / "other.yaml")
    with pytest.raises(DemoError, match="Give another one with --into"):
        begin_demo(tmp_path)
    with pytest.raises(DemoError, match="is not an empty folder"):
        begin_demo(tmp_path / "other.yaml")


def test_every_step_is_a_command_as_it_is_shown(tmp_path: Path) -> None:
    steps = steps_of_demo(tmp_path / "my demo")
    assert len(steps) == 4
    for step in steps:
        _, name, *rest = shlex.split(subcommand.shown(step.arguments))
        found = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
        found.make_context(name, rest)


def test_a_step_returns_its_exit_code() -> None:
    assert subcommand.run(("--version",)) == 0
    assert subcommand.run(("status", "/no/such/folder")) == 2


def test_a_step_that_is_running_ends_with_the_demo() -> None:
    def ignored(*_: object) -> None:
        pass

    def terminate() -> None:
        wait_until(lambda: signal.getsignal(signal.SIGTERM) is not ignored)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, ignored)
    threading.Thread(target=terminate).start()
    try:
        assert subcommand.run(("list",)) == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is ignored
    finally:
        signal.signal(signal.SIGTERM, before)
