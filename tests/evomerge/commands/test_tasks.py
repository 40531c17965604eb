"""What a task given on the command line is taken for."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.commands.tasks import DraftError, guess_task


@pytest.mark.parametrize(
    ("name", "content", "evaluator"),
    [
        ("qa.jsonl", '{"prompt": "1+1=", "choices": ["2", "3"], "answer": 0}\n', "multiple_choice"),
        ("sum.jsonl", '\n{"prompt": "1+1=", "answer": "2"}\n', "exact_match"),
        ("prose.jsonl", '{"text": "Once upon"}\n', "perplexity"),
        ("prose.txt", "Once upon a time", "perplexity"),
    ],
)
def test_file_contents_determine_the_evaluator(tmp_path: Path, name: str, content: str, evaluator: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    entry = {"evaluator": evaluator, "file": str(tmp_path / name)}
    assert guess_task(str(tmp_path / name)) == (Path(name).stem, entry)


def test_a_task_file_of_lm_eval_gives_its_name_and_folder(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text('tag: [task: no]\ntask: "my_sort"\nx: !function u.f\n', encoding="utf-8")
    entry = {"evaluator": "lm_eval_task", "task": "my_sort", "include_path": str(tmp_path)}
    assert guess_task(str(tmp_path / "x.yaml")) == ("x", entry)


def test_names_that_are_no_files() -> None:
    assert guess_task("gsm8k") == ("gsm8k", {"evaluator": "lm_eval_task", "task": "gsm8k"})
    assert guess_task("my_lab.evals:Trivia") == ("Trivia", {"evaluator": "my_lab.evals:Trivia"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"question": 1, "solution": 2}\n', "has the fields question, solution"),
        ("x.jsonl", "not json\n", "line 1 is not valid JSON"),
        ("x.jsonl", "", "has no examples"),
        ("x.jsonl", "[1]\n", "expected a JSON object"),
        ("x.yaml", "group: g\n", "has no `task: NAME`"),
    ],
)
def test_unsuitable_files_are_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DraftError, match=message):
        guess_task(str(tmp_path / name))


@pytest.mark.parametrize("text", ["data/missing.jsonl", "missing.yaml", "a/b"])
def test_a_missing_path_is_not_taken_for_a_task_name(text: str) -> None:
    with pytest.raises(DraftError, match="There is no file"):
        guess_task(text)


def test_a_missing_task_file_is_an_error_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom evomerge.cli import app\n"
        f"try:\n    app(['init', 'base', 'expert', '--task', 'gone.jsonl', '-o', '{tmp_path}/search.yaml'])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, "There is no file 'gone.jsonl'" in done.stderr) == ("2 False\n", True), done.stderr


@pytest.mark.parametrize(
    ("content", "doubt"),
    [
        ('{"question": "q", "context": "c", "answer": "a"}\n', "exact_match, but .* field 'context' would be ignored"),
        ('{"question": "q", "A": "1", "B": "2", "answer": "A"}\n', "the field 'A' would be ignored"),
        ('{"prompt": "p", "question": "q", "answer": "a"}\n', "both 'prompt' and 'question'"),
        ('{"text": "t", "label": 1}\n', "perplexity, but .* field 'label'"),
        ('{"instruction": "i", "answer": "a"}\n', "there is no 'prompt' or 'question'"),
        ('{"question": "q", "choices": ["a"], "answer": 0, "answerKey": "A"}\n', "multiple_choice, but .*'answerKey'"),
        ('{"prompt": "p", "answer": "a"}\n{"prompt": "p", "answers": ["a"]}\n', "'answer' is not in every line"),
    ],
)
def test_ambiguous_fields_are_errors(tmp_path: Path, content: str, doubt: str) -> None:
    (tmp_path / "x.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DraftError, match=rf"{doubt}[\s\S]*--task '{{evaluator: "):
        guess_task(str(tmp_path / "x.jsonl"))


def test_irrelevant_fields_are_not_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"id": 3, "prompt": "p", "answer": "a", "source": "s"}\n', encoding="utf-8")
    assert guess_task(str(tmp_path / "x.jsonl"))[1]["evaluator"] == "exact_match"


def test_choices_with_a_space_of_their_own_need_no_separator(tmp_path: Path) -> None:
    row = '{"prompt": "p", "choices": [" a", " b"], "answer": 0}\n'
    (tmp_path / "x.jsonl").write_text(row, encoding="utf-8")
    assert guess_task(str(tmp_path / "x.jsonl"))[1]["separator"] == ""
    (tmp_path / "y.jsonl").write_text(row + row.replace(" b", "b"), encoding="utf-8")
    assert "separator" not in guess_task(str(tmp_path / "y.jsonl"))[1]


def test_a_task_may_be_given_as_an_entry(tmp_path: Path) -> None:
    entry = {"evaluator": "exact_match", "file": str(tmp_path / "x.jsonl"), "template": "{context} {question}"}
    text = f"{{evaluator: exact_match, file: {tmp_path}/x.jsonl, template: '{{context}} {{question}}'}}"
    assert guess_task(text) == ("x", entry)
    with pytest.raises(DraftError, match="names no evaluator"):
        guess_task("{file: x.jsonl}")


def test_the_task_suggested_for_an_ambiguous_file_works(tmp_path: Path) -> None:
    row = '{"question": "q", "context": "c", "answer": "a"}\n'
    (tmp_path / "x.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(DraftError) as refused:
        guess_task(str(tmp_path / "x.jsonl"))
    _, _, command = str(refused.value).partition("Say what to read: ")
    _, entry = shlex.split(command)
    assert guess_task(entry)[1]["template"] == "{question}\n{context}"


def test_a_line_unlike_the_others_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "p", "answer": "a"}\n' * 3 + '{"prompt": "p"}\n', encoding="utf-8")
    with pytest.raises(DraftError, match="line 4 has no 'answer', unlike most lines"):
        guess_task(str(tmp_path / "x.jsonl"))


def test_table_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("question,answer\n", encoding="utf-8")
    with pytest.raises(DraftError, match=r"is a \.csv file. Expected a JSONL, text or task YAML file"):
        guess_task(str(tmp_path / "x.csv"))
