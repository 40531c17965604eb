"""The questions of `init`: it proposes models that it finds, asks for what is missing only, and writes a valid file."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pexpect import EOF
from pexpect.fdpexpect import fdspawn
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.commands.init_questions import Answers, ask_for_missing, found_models, found_tasks, read_budget
from evomerge.commands.tasks import DraftError
from evomerge.config import load_config
from tests.evomerge.forks import Fork
from tests.evomerge.merging.folders import llama
from tests.waiting import CEILING

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, two fine-tunes, one network of another shape, one task; and a cache of the hub."""
    for number, name in enumerate(("my-base", "math", "code")):
        llama(tmp_path / "models" / name, number)
    llama(tmp_path / "models" / "other", 3, num_hidden_layers=3)
    (tmp_path / "quiz.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 3, encoding="utf-8")
    (tmp_path / "notes.jsonl").write_text('{"unknown": 1}\n', encoding="utf-8")
    repository = tmp_path / "hub" / "models--lab--chat"
    llama(repository / "snapshots" / COMMIT, 4)
    (repository / "snapshots" / COMMIT / "README.md").write_text("---\nbase_model: somebody/my-base\n---\n# Chat\n")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answering(answers: list[str]) -> tuple[Callable[[str], str], Iterator[str]]:
    left = iter(answers)
    return (lambda _question: next(left)), left


def test_models_are_found_in_the_folder_and_in_the_cache(workplace: Path) -> None:
    found = {model.name: model for model in found_models(Path(), workplace / "hub")}
    assert list(found) == ["models/code", "models/math", "models/my-base", "models/other", "lab/chat"]
    assert found["lab/chat"].bases == ("somebody/my-base",)
    assert found["models/code"].shape == found["models/math"].shape != found["models/other"].shape


def test_exports_are_not_proposed(workplace: Path) -> None:
    (workplace / "models/math/evomerge.json").write_text("{}")
    assert "models/math" not in {model.name for model in found_models(Path(), workplace / "hub")}


def test_what_cards_name_goes_before_shapes_and_names(workplace: Path) -> None:
    card = workplace / "hub/models--lab--chat/snapshots" / COMMIT / "README.md"
    card.write_text("---\nbase_model: models/math\n---\n# Chat\n")
    ask, _ = answering(["", ""])
    found = ask_for_missing(None, (), ["quiz.jsonl"], ask, lambda _: None, "8h", workplace / "hub")
    assert (found.base, found.experts) == ("models/math", ("lab/chat",))


def test_only_the_current_snapshot_of_the_cache_is_proposed(workplace: Path) -> None:
    llama(workplace / "hub/models--lab--chat/snapshots" / ("0" * 40), 5)
    assert [model.name for model in found_models(workplace / "nowhere", workplace / "hub")] == ["lab/chat"]


def test_there_is_one_base(workplace: Path) -> None:
    said: list[str] = []
    ask, _ = answering(["models/math, models/code", "models/math"])
    found = ask_for_missing(None, ["models/code"], ["quiz.jsonl"], ask, said.append, "8h", workplace / "nowhere")
    assert found.base == "models/math"
    assert "Expected one model; got 2: models/math, models/code." in said


def test_only_files_that_are_tasks_are_proposed(workplace: Path) -> None:
    assert found_tasks(Path()) == ["quiz.jsonl"]


def test_empty_answers_take_the_proposals(workplace: Path) -> None:
    ask, left = answering(["", "", "", ""])
    found = ask_for_missing(None, (), (), ask, lambda _: None, cache=workplace / "hub")
    assert found == Answers("models/my-base", ("lab/chat",), ("quiz.jsonl",), {"trials": 200})
    assert list(left) == []


def test_numbers_and_names_are_taken_and_wrong_answers_asked_again(workplace: Path) -> None:
    said: list[str] = []
    answers = [
        "30",
        "3",
        "models/math models/code",
        "1, models/math",
        "40",
        "absent.jsonl",
        "quiz.jsonl, gsm8k",
        "soon",
    ]
    ask, _ = answering([*answers, "90min"])
    found = ask_for_missing(None, (), (), ask, said.append, cache=workplace / "nowhere")
    assert found.experts == ("models/code", "models/math")
    assert (found.base, found.tasks, found.budget) == ("models/my-base", ("quiz.jsonl", "gsm8k"), {"hours": 1.5})
    assert any("absent.jsonl" in line for line in said)
    assert any("There is no number 30" in line for line in said)
    assert any("There is no number 40" in line for line in said)
    assert any("There is no model 'models/math models/code'" in line for line in said)
    assert any("'soon'" in line for line in said)


def test_without_cards_models_of_the_bases_shape_are_proposed(workplace: Path) -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return ""

    found = ask_for_missing("models/my-base", (), ["quiz.jsonl"], ask, lambda _: None, "8h", workplace / "nowhere")
    assert found.experts == ("models/code", "models/math")
    assert len(asked) == 1, "nothing that is given is asked"


def test_a_terminal_is_asked_and_the_file_has_relative_paths(workplace: Path) -> None:
    controller, terminal = os.openpty()
    with Fork("init", "-o", "search.yaml", terminal=terminal, environment={"HF_HUB_CACHE": "nowhere"}) as process:
        os.close(terminal)
        typist = fdspawn(controller, timeout=CEILING)
        for question, answer in (
            ("Base", "models/my-base"),
            ("Experts", ""),
            ("Tasks: numbers", ""),
            ("Budget", "40"),
        ):
            typist.expect_exact(question)
            typist.sendline(answer)
        typist.expect_exact("Next: evomerge check search.yaml")
        typist.expect(EOF)
    os.close(controller)
    assert process.returncode == 0
    text = (workplace / "search.yaml").read_text(encoding="utf-8")
    for line in ("base: models/my-base", "  code: models/code", "  quiz: {evaluator: exact_match, file: quiz.jsonl}"):
        assert f"{line}\n" in text
    assert load_config(workplace / "search.yaml").budget.trials == 40


def test_without_a_terminal_what_is_missing_is_named(workplace: Path) -> None:
    done = CliRunner().invoke(app, ["init", "models/my-base", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"].startswith("Missing EXPERTS, --task.")


def test_a_budget_is_given_on_the_command_line(workplace: Path) -> None:
    arguments = ["init", "models/my-base", "models/math", "--task", "quiz.jsonl", "--budget", "8h", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["file"] == "search.yaml"
    assert load_config(workplace / "search.yaml").budget.hours == 8
    with pytest.raises(DraftError, match="such as 200"):
        read_budget("much")
