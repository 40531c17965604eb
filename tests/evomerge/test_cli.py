"""The command line: light to start, one clear message per error, exit codes, and the whole way from file to weights."""

import hashlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pexpect import EOF
from pexpect.fdpexpect import fdspawn
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evomerge import __version__
from evomerge.budget import candidates
from evomerge.cli import app
from evomerge.run import Run
from evomerge.study import Study
from tests.evomerge.forks import Fork
from tests.toys import search_file, write_toys
from tests.waiting import CEILING

HEAVY = ("torch", "ray", "transformers", "lm_eval", "optuna", "scipy", "numpy", "pydantic", "rich", "yaml")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def console_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("evomerge")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "80"}
    command = [str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def write(folder: Path, **changes: object) -> Path:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **changes)), encoding="utf-8")
    return file


@pytest.mark.parametrize("module", ["evomerge", "evomerge.cli"])
def test_starting_loads_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_console_script_says_its_version_and_commands() -> None:
    assert console_script("--version").stdout == f"evomerge {__version__}\n"
    shown = console_script("--help").stdout
    assert "--install-completion" in shown
    sections = shown.partition("  --help")[2].split("\n\n")[1:]
    listed = {lines[0]: [line.split()[0] for line in lines[1:]] for lines in map(str.splitlines, sections)}
    assert listed == {
        "Search:": ["demo", "init", "check", "plan", "bench", "search", "finish"],
        "Results:": ["status", "report", "dashboard", "pareto", "pick", "compare", "chat", "export"],
        "Merge without a search:": ["merge", "reproduce", "publish", "import"],
        "Plug-ins and tools:": ["list", "schema", "tools"],
    }
    assert "..." not in shown.partition("Search:")[2], "what a command does is not cut off at 80 columns"


@pytest.mark.parametrize("old", ["align", "repair", "statistics", "soup"])
def test_older_spellings_of_tools_take_the_same_options(old: str) -> None:
    new = {"statistics": "calibrate"}.get(old, old)
    older, newer = run(old, "--help").stdout, run("tools", new, "--help").stdout
    assert older.partition("\n")[2] == newer.partition("\n")[2]
    assert "--output" in newer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that the console script ran to its end."""
    folder = tmp_path_factory.mktemp("finished")
    done = console_script("search", write(folder))
    assert done.returncode == 0, done.stderr
    (folder / "stdout.jsonl").write_text(done.stdout, encoding="utf-8")
    return folder


def test_a_search_without_a_terminal_prints_json_lines(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "stdout.jsonl").read_text().splitlines()]
    progress = [line["told"] for line in lines if line["event"] == "progress" and line["phase"] == "search"]
    assert progress == sorted(progress)
    assert progress[-1] == 30
    assert lines[-1]["event"] == "ended"
    assert lines[-1]["exit_code"] == 0
    selected = next(line for line in lines if line["event"] == "selected")
    assert selected["winner"] == selected["standings"][0]["label"]


def test_status_of_a_finished_search(finished: Path) -> None:
    result = run("status", finished / "study", "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["state"], data["told"]) == (0, "done", 30)
    assert data["result"]["standings"][0]["label"] == data["selected"]
    text = run("status", finished / "study").stdout
    assert "Held-out examples" in text
    assert " ".join(data["result"]["verdict"].split()) in " ".join(text.split())


def test_an_exported_recipe_gives_the_exported_weights_again(finished: Path, tmp_path: Path) -> None:
    study = finished / "study"
    exported = run("export", study, "-o", tmp_path / "a")
    verdict = json.loads(run("status", study, "--json").stdout)["result"]["verdict"]
    assert exported.exit_code == 0
    assert verdict in exported.stdout
    assert verdict in html.unescape((tmp_path / "a" / "README.md").read_text())
    assert run("export", study, "-o", tmp_path / "r.yaml", "--recipe-only").exit_code == 0
    assert run("merge", tmp_path / "r.yaml", "-o", tmp_path / "b").exit_code == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()


def test_another_trial_and_another_format(finished: Path, tmp_path: Path) -> None:
    study = finished / "study"
    shown = run("export", study, "--trial", 12, "-o", tmp_path / "m.yaml", "--format", "mergekit", "--json")
    assert json.loads(shown.stdout)["label"] == "trial:12"
    assert "merge_method: task_arithmetic" in (tmp_path / "m.yaml").read_text()
    assert run("export", study, "--trial", 12, "-o", tmp_path / "m.yaml", "--recipe-only").exit_code == 2
    assert run("export", study, "--trial", 12, "--best", "-o", tmp_path / "x").exit_code == 2
    missing = run("export", study, "--trial", 999, "-o", tmp_path / "x")
    assert missing.exit_code == 2
    assert re.search(r"no trial 999. It has 0 to 31 \(on the search split\), 32 to \d+ \(on the select", missing.stderr)
    assert run("export", study, "--format", "gguf", "-o", tmp_path / "x").exit_code == 2


def test_an_export_before_the_end_says_what_can_be_done(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "study", tmp_path / "study")
    ledger = tmp_path / "study" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(line for line in lines[: len(lines) // 2]))
    early = run("export", tmp_path / "study", "-o", tmp_path / "x")
    assert early.exit_code == 2
    assert f"evomerge search {tmp_path / 'study' / 'search.yaml'} --resume" in early.stderr
    assert "--trial N; the best merge so far is" in early.stderr


def test_a_stopped_search_is_finished_with_the_candidates_it_has_and_can_go_on(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "study", tmp_path / "study")
    ledger = tmp_path / "study" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[: len(lines) // 2]))
    before = Study.read(tmp_path / "study")
    done = run("finish", tmp_path / "study", "--json")
    assert done.exit_code == 0, done.stderr
    study = Study.read(tmp_path / "study")
    assert candidates(study) == candidates(before) < 30
    assert not study.pending
    selected = json.loads(run("status", tmp_path / "study", "--json").stdout)["selected"]
    assert selected in {entry.trial.label for entry in before.entries.values()}
    again = run("finish", tmp_path / "study", "--json")
    assert (again.exit_code, len(Study.read(tmp_path / "study").told)) == (0, len(study.told))
    assert "the winner among all candidates is selected" in again.stdout
    text = (tmp_path / "study" / "search.yaml").read_text()
    (tmp_path / "search.yaml").write_text(text.replace(str(finished / "study"), str(tmp_path / "study")))
    assert run("search", tmp_path / "search.yaml", "--resume", "--json").exit_code == 0
    assert candidates(Study.read(tmp_path / "study")) == 30


def test_there_is_nothing_to_finish_before_a_candidate_has_scores(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "study", tmp_path / "study")
    ledger = tmp_path / "study" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    told = [n for n, line in enumerate(lines) if '"kind":"told"' in line]
    ledger.write_text("".join(lines[: told[1]]))  # the canary alone
    refused = run("finish", tmp_path / "study")
    assert refused.exit_code == 2
    assert "nothing to select from" in refused.stderr
    assert "--resume" in refused.stderr


def test_a_stopped_search_goes_on_with_resume_and_never_starts_over(finished: Path) -> None:
    again = run("search", finished / "search.yaml")
    assert again.exit_code == 2
    assert "already a study" in again.stderr
    assert "--resume, or give another folder as `study:`" in again.stderr
    more = run("search", finished / "search.yaml", "--resume", "--trials", 33, "--json")
    assert more.exit_code == 0, more.stderr
    study = Study.read(finished / "study")
    assert candidates(study) == 33


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 75), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.fault("F37", "SIGINT, SIGTERM and SIGHUP", "75, 143 and 129; the resumed search ends as undisturbed")
def test_a_signal_ends_a_search_resumable(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with Fork("search", write(tmp_path, budget={"trials": 10**6})) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if '"told": 3,' in line)
        process.send_signal(number)
        last = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == last["exit_code"] == code
    assert f"evomerge search {tmp_path / 'study' / 'search.yaml'} --resume" in last["message"]
    assert Study.read(tmp_path / "study").events[-1][0] == "stopped"


ENDLESS = """
import pathlib, time

def score(model, ids, mark):
    pathlib.Path(mark).touch()
    time.sleep(10_000)
"""


@pytest.mark.fault("F36", "Ctrl-C twice", "130, resumable")
def test_a_second_interrupt_leaves_a_running_candidate_at_once(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS, encoding="utf-8")
    (tmp_path / "examples.txt").write_text("\n".join(map(str, range(60))), encoding="utf-8")
    task = {"evaluator": "callable", "function": "endless:score", "examples": "examples.txt"}
    file = write(tmp_path, tasks={"one": {**task, "mark": str(tmp_path / "running")}})
    with Fork("search", file) as process:
        assert process.stdout is not None
        while not (tmp_path / "running").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = json.loads(next(line for line in process.stdout if '"stopping"' in line))
        assert said["message"] == "stopping: 1 running candidate finishes; Ctrl-C again stops at once"
        process.send_signal(signal.SIGINT)
        lines = [json.loads(line) for line in process.stdout]
    assert process.returncode == lines[-1]["exit_code"] == 130
    study = Study.read(tmp_path / "study")
    assert [trial.number for trial in study.pending] == [0]
    assert study.events[-1][0] == "stopped"


@contextmanager
def on_a_terminal(*arguments: object) -> Iterator[tuple[Fork, fdspawn]]:
    """A command in the foreground of a terminal, and what reads and types there."""
    controller, terminal = os.openpty()
    with Fork(*arguments, terminal=terminal) as process:
        os.close(terminal)
        typist = fdspawn(controller, timeout=CEILING)
        yield process, typist
        if process.poll() is None:
            typist.expect(EOF)
    os.close(controller)


SLOW = {"one": {"evaluator": "synthetic", "n_examples": 60, "delay": 0.1}}


@pytest.mark.fault(
    "F36", "Ctrl-C on a terminal, and a key", "it asks; the search is stopped, or finished with a winner"
)
@pytest.mark.parametrize(("key", "said", "code"), [("s", "To resume: evomerge search", 75), ("f", "Next: ", 0)])
def test_ctrl_c_on_a_terminal_asks_whether_to_stop_or_finish(tmp_path: Path, key: str, said: str, code: int) -> None:
    with on_a_terminal("search", write(tmp_path, tasks=SLOW, budget={"trials": 10**6})) as (process, typist):
        typist.expect_exact("in 10 min")
        typist.send("\x03")  # Ctrl-C
        typist.expect_exact("go on")
        typist.send(key)
        typist.expect_exact(said)
        if key == "f":
            typist.sendline("q")
    assert process.returncode == code
    study = Study.read(tmp_path / "study")
    assert any(kind == "selected" for kind, _ in study.events) == (key == "f")


def test_after_ctrl_c_on_a_terminal_a_search_can_go_on_or_be_stopped_at_once(tmp_path: Path) -> None:
    with on_a_terminal("search", write(tmp_path, tasks=SLOW, budget={"trials": 10**6})) as (process, typist):
        typist.expect_exact("in 10 min")
        typist.send("\x03")  # Ctrl-C
        typist.expect_exact("finish now")
        before = len(Study.read(tmp_path / "study").told)
        typist.send("xc")
        typist.expect_exact("going on")
        while len(Study.read(tmp_path / "study").told) < before + 3:
            typist.expect("trials")
        typist.send("\x03")  # Ctrl-C
        typist.expect_exact("finish now")
        typist.send("\x03")  # Ctrl-C
        typist.expect_exact("stopping at once")
    assert process.returncode == 130


@pytest.mark.parametrize("option", ["--json", "--no-menu"])
def test_nothing_is_asked_at_the_end_without_a_menu(tmp_path: Path, option: str) -> None:
    with on_a_terminal("search", write(tmp_path, budget={"trials": 8}), option) as (process, typist):
        typist.expect(EOF)
        assert b"Next: " not in typist.before
    assert process.returncode == 0


@pytest.mark.fault("F37", "the terminal goes away", "129, resumable")
def test_a_closed_terminal_ends_a_search_resumable(tmp_path: Path) -> None:
    """What the kernel does to a session whose terminal goes away: SIGHUP, and an error for whoever writes to it."""
    tasks = {"one": {"evaluator": "synthetic", "n_examples": 60, "delay": 0.2}}
    file = write(tmp_path, tasks=tasks, budget={"trials": 10**6})
    controller, terminal = os.openpty()
    with Fork("search", file, terminal=terminal) as process:
        os.close(terminal)
        read_until(controller, b"best merge")
        os.close(controller)
    assert process.returncode == 129
    assert Study.read(tmp_path / "study").events[-1] == ("stopped", {"level": 2})


@pytest.mark.slow
def test_a_signal_while_workers_start_ends_it_before_there_is_a_study(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("evomerge"), "search", write(tmp_path, executor="ray", workers=1)]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not any(
            b"raylet" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children.read_text().split()
        ):
            time.sleep(0.01)  # until Ray's own handler of SIGTERM is in force
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in process.stdout]
    assert process.returncode == lines[-1]["exit_code"] == 143
    assert lines[-1]["message"] == "stopped before the study began"
    assert not (tmp_path / "study").exists()


CRASHING = """
import ctypes

def score(model, ids):
    ctypes.string_at(0)  # SIGSEGV, as in a broken kernel
"""


@pytest.mark.fault("F7", "native code crashes in the driver", "its stack is printed; the resume says what had run")
def test_a_crash_in_native_code_says_where_and_is_told_on_resume(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING, encoding="utf-8")
    (tmp_path / "examples.txt").write_text("\n".join(map(str, range(60))), encoding="utf-8")
    task = {"evaluator": "callable", "function": "crashing:score", "examples": "examples.txt"}
    file = write(tmp_path, tasks={"one": task})
    with Fork("search", file) as process:
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in errors
    assert 'crashing.py", line 5 in score' in errors
    with closing(Study.open(tmp_path / "study")) as study:
        assert "1 re-queued. The last session ended unexpectedly while trial 0 ran" in str(study.resumed)


def read_until(terminal: int, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen += os.read(terminal, 4096)


def test_a_search_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    with Fork("search", write(tmp_path, budget={"trials": 12})) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (
        0,
        "The output can no longer be written. The search continues without it.\n",
    )
    assert candidates(Study.read(tmp_path / "study")) == 12


@pytest.mark.fault("F33", "a search file is changed and resumed", "exit code 2 with the keys that differ")
def test_a_resume_with_another_configuration_is_refused(tmp_path: Path) -> None:
    assert run("search", write(tmp_path, budget={"trials": 8})).exit_code == 0
    result = run("search", write(tmp_path, budget={"trials": 8}, seed=4), "--resume")
    assert result.exit_code == 2
    assert "seed: 3 -> 4" in result.stderr


def test_a_resume_without_a_study_says_that_it_starts_one(tmp_path: Path) -> None:
    file = write(tmp_path, budget={"trials": 8})
    said = f"no study in {tmp_path / 'study'} yet: starting a new one"
    assert said in run("search", file, "--resume", "--json").stdout
    assert said not in run("search", file, "--resume", "--json").stdout


def test_a_busy_study_is_exit_code_4(tmp_path: Path) -> None:
    file = write(tmp_path, budget={"trials": 8})
    assert run("search", file).exit_code == 0
    study = Study.open(tmp_path / "study")
    try:
        with Fork("search", file, "--resume") as process:
            _, errors = process.communicate()
    finally:
        study.close()
    assert process.returncode == 4
    assert "Traceback" not in errors


def test_init_then_check(tmp_path: Path) -> None:
    base, experts = write_toys(tmp_path / "models")
    file = tmp_path / "search.yaml"
    drafted = run("init", base, *experts.values(), "--task", "my_lab.evals:Trivia", "-o", file, "--json")
    assert drafted.exit_code == 0, drafted.stderr
    assert json.loads(drafted.stdout)["file"] == str(file)
    assert run("init", base, *experts.values(), "--task", "t", "-o", file).exit_code == 2
    checked = run("check", file)
    assert checked.exit_code == 2
    assert "my_lab.evals:Trivia" in checked.stderr


def test_check_says_what_a_search_will_do(tmp_path: Path) -> None:
    result = run("check", write(tmp_path), "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["dimension"], data["experts"]) == (0, 10, ["a", "b"])
    assert sum(data["examples"]["one"].values()) == 200
    # The base, two parents, the uniform average, and five of task arithmetic without the one that is uniform.
    assert (data["baselines"], data["proposed"]) == (9, 20)
    short = run("check", write(tmp_path, budget={"trials": 10})).stdout
    assert "the start and 9 baselines come first, which leaves 0 of 10 trials to cma_es" in short
    assert short.splitlines()[-1].startswith(
        "Ready, but the budget covers baselines only (see the last note): evomerge search"
    )
    assert not (tmp_path / "study").exists()


def test_an_error_is_one_message_on_stderr_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("base: b\nbase: c\n", encoding="utf-8")
    done = console_script("search", tmp_path / "bad.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {tmp_path / 'bad.yaml'}:2: duplicate key 'base' (first at line 1).\n"


def test_with_json_an_error_is_an_object_on_stdout(tmp_path: Path) -> None:
    for command, code, said in (
        (["status", tmp_path], 2, "no study"),
        (["search", tmp_path / "gone.yaml"], 2, "does not exist: expected a search file"),
        (["merge"], 2, "Missing argument"),
        (["serch", "x"], 2, "No such command 'serch'"),
    ):
        with Fork(*command, "--json") as process:
            shown, errors = process.communicate()
        error = json.loads(shown)
        assert (process.returncode, errors, error["event"], error["code"]) == (code, "", "error", code)
        assert said in error["error"]
    refused = write(tmp_path)
    (tmp_path / "models" / "a.safetensors").write_bytes(b"")
    assert json.loads(run("check", refused, "--json").stdout)["code"] == 3


def test_a_folder_is_no_search_file_but_may_hold_one(finished: Path, tmp_path: Path) -> None:
    given = run("search", finished / "study", "--resume")
    assert given.exit_code == 2
    assert f"the one of this run is {finished / 'study' / 'search.yaml'}" in given.stderr
    assert "is a folder; expected a search file." in run("check", tmp_path).stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = console_script("--debug", "search", tmp_path / "nothing.yaml")
    assert "Traceback" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"", "safetensors"),
    ],
)
def test_refused_models_are_exit_code_3(tmp_path: Path, damage: bytes, message: str) -> None:
    file = write(tmp_path)
    (tmp_path / "models" / "a.safetensors").write_bytes(damage)
    result = run("check", file)
    assert result.exit_code == 3
    assert message in result.stderr


def test_a_file_that_a_task_names_and_that_is_not_there(tmp_path: Path) -> None:
    tasks = {"add": {"evaluator": "multiple_choice", "file": "gone.jsonl"}}
    result = run("check", write(tmp_path, tasks=tasks))
    assert result.exit_code == 2
    assert f"tasks.add.file: {tmp_path / 'gone.jsonl'}" in result.stderr


def test_no_study_no_status(tmp_path: Path) -> None:
    result = run("status", tmp_path)
    assert result.exit_code == 2
    assert "no study" in result.stderr


def test_two_models_are_compared_example_by_example(finished: Path) -> None:
    study = finished / "study"
    shown = json.loads(run("compare", study, "winner", "parent:a", "--json").stdout)
    report = Run(study).scored("report").by_label
    mine, theirs = (report[label].scores["one"] for label in (shown["first"], "parent:a"))
    assert (shown["second"], shown["split"], shown["tasks"].keys()) == ("parent:a", "report", {"one", "two"})
    one = shown["tasks"]["one"]
    assert one["means"] == [mine.mean, theirs.mean]
    gaps = dict(zip(mine.example_ids, mine.values - theirs.values, strict=True))
    assert set(one["better"]) == {name for name, gap in gaps.items() if gap > 0}
    assert set(one["worse"]) == {name for name, gap in gaps.items() if gap < 0}
    assert {abs(gaps[name]) for name in one["better"][:1]} == {max(gap for gap in gaps.values())}
    swapped = json.loads(run("compare", study, "parent:a", "winner", "--json").stdout)["tasks"]["one"]
    assert (swapped["better"], swapped["worse"]) == (one["worse"], one["better"])
    text = run("compare", study, "winner", "parent:a", "--examples", 1).stdout
    assert f"better on {len(one['better'])} of {len(gaps)} examples, worse on {len(one['worse'])}" in text
    assert f"{shown['first']} is better: {one['better'][0]} (" in text
    assert f"and {len(one['better']) - 1} more, which --json lists" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("winner", "parent:c"), "no model 'parent:c'. Did you mean 'parent:b'?"),
        (("winner", "999"), "no trial 999"),
        (("winner", "12", "--split", "test"), "--split is one of search, select, report; got 'test'"),
    ],
)
def test_a_comparison_without_its_models_is_refused(finished: Path, words: tuple[str, ...], said: str) -> None:
    refused = run("compare", finished / "study", *words)
    assert refused.exit_code == 2
    assert said in " ".join(refused.stderr.split())
