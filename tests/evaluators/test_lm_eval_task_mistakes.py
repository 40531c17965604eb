"""Mistakes in task files: one line with file, line and task, whatever lm-eval, datasets or Jinja make of them."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import EvaluatorError
from evaluators.lm_eval_task import LmEvalTask
from evomerge.cli import app
from tests.conftest import TinyModels
from tests.evaluators.task_files import PICK, ROWS, write_task
from tests.evaluators.tiny_llama import TinyModel
from tests.toys import search_file

METRIC = {"aggregation": "mean", "higher_is_better": True}
WRITE = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "generation_kwargs": {"max_gen_toks": 4, "until": ["x"]},
}

#: Changes of a task that works, the key that the line is of, and what is said.
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"test_split": None}, "dataset_path", "neither test_split nor validation_split is set; its data has 'test'"),
    ({"test_split": "validation"}, "test_split", "test_split is 'validation'; its data has 'test'"),
    ({"fewshot_split": "train"}, "fewshot_split", "fewshot_split is 'train'; its data has 'test'"),
    ({"doc_to_text": "{{context}}"}, "doc_to_text", "fields 'question', 'choices', 'answer', failed: UndefinedError"),
    ({"doc_to_text": "{{question"}, "doc_to_text", "failed: TemplateSyntaxError: unexpected end of template"),
    ({"doc_to_text": "{{question|nothing}}"}, "doc_to_text", "No filter named 'nothing'"),
    ({"doc_to_text": None}, "task", "failed: TypeError"),
    ({"doc_to_text": ["a"]}, "doc_to_text", "doc_to_text is ['a']; expected str or int"),
    ({"doc_to_choice": "{{question}}"}, "doc_to_choice", "failed: SyntaxError"),
    ({"doc_to_target": "{{answer + 'x'}}"}, "doc_to_target", "failed: TypeError"),
    ({"filter_list": [{"name": "x", "filter": [{"function": "regexx"}]}]}, "filter_list", "Did you mean 'regex'?"),
    ({"filter_list": [{"name": "x", "filter": "regex"}]}, "filter_list", "is not a filter; expected {name: NAME"),
    ({"filter_list": ["regex"]}, "filter_list", "'regex' is not a filter"),
    ({"output_type": "greedy_until"}, "output_type", "expected one of loglikelihood, multiple_choice"),
    ({"metric_list": [{"metric": "acc_nrm", **METRIC}]}, "metric_list", "Did you mean 'acc_norm'?"),
    ({"metric_list": [{"metric": "acc", "aggregation": "men"}]}, "metric_list", "There are bits_per_byte, bleu"),
    ({"metric_list": ["acc"]}, "metric_list", "'acc' is not a metric; expected {metric: NAME"),
    ({"metric_list": {"metric": "acc"}}, "metric_list", "expected list"),
    ({"num_fewshot": "two"}, "num_fewshot", "num_fewshot is 'two'; expected int"),
    ({"process_docs": "nowhere"}, "process_docs", "expected !function module.name"),
    ({"a0": 1}, "a0", "lm-eval has no key 'a0' for tasks"),
    ({"doc_to_txt": 1}, "doc_to_txt", "Did you mean 'doc_to_text'?"),
    ({"class": "os.system"}, "class", "sets class, which runs code"),
    ({"dataset_path": "jsonn"}, "dataset_path", "its data set is not in the cache and cannot be downloaded"),
    ({"dataset_kwargs": ["data.jsonl"]}, "dataset_kwargs", "expected dict"),
    (
        {"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}},
        "dataset_kwargs",
        "there is no file 'nowhere.jsonl'",
    ),
    (
        {"dataset_kwargs": {"data_files": {"test": "pick.jsonl"}, "nothing": 1}},
        "dataset_kwargs",
        "its data cannot be read",
    ),
    ({"dataset_kwargs": {"nothing": 1}}, "dataset_kwargs", "is 'json', a format, and no file is named; add"),
    ({"dataset_kwargs": None}, "dataset_path", "is 'json', a format, and no file is named; add"),
    ({"fewshot_config": {"sampler": "nobody"}}, "task", "building it failed"),
    ({"fewshot_config": {"nothing": 1}}, "task", "building it failed: TypeError"),
]


@pytest.mark.parametrize(
    ("changes", "key", "said"), MISTAKES, ids=[f"{key}-{n}" for n, (_, key, _) in enumerate(MISTAKES)]
)
def test_lm_eval_task_mistakes(tmp_path: Path, changes: dict[str, Any], key: str, said: str) -> None:
    file = write_task(tmp_path, **changes)
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text.startswith(f"{key}:"))
    with pytest.raises(EvaluatorError) as refused:
        LmEvalTask(task=str(file))
    message = str(refused.value)
    assert said in message
    assert "\n" not in message
    place, _, rest = message.partition(": task 'pick': ")
    assert rest
    found = place.removeprefix(f"{file}:")
    assert found.isdigit()
    assert line <= int(found) <= line + 3  # a value in a list may stand below its key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: broken\n  bad: [\n", ":2: not valid YAML"),
        ("dataset_path: json\n", ":1: a task file needs the name of a task"),
        ("task: a\ntask: b\n", ":2: duplicate key 'task' (first at line 1)"),
        ("- task\n", ":1: a task file is a mapping"),
        ("task: 5\n", ":1: `task` is 5; expected a name"),
        ("task: [a, b]\n", ":1: a task file needs the name of a task"),
        ("task: a\ntag: {b: c}\n", ":2: `tag` is {'b': 'c'}; expected a name"),
        ("task: a\ninclude: [3]\n", ":2: `include` needs file names; it has 3"),
        ("task: a\ninclude: nowhere.yaml\n", ":2: The task file "),
        ("task: a\ninclude: task.yaml\n", "includes itself"),
        ("task: a\ninclude: /dev/zero\n", "is not a regular file"),
        ("group: a\ntask: [a]\n", "is a member of itself"),
        ("group: a\ntask: []\n", "has no tasks"),
        ("group: a\ntask: [[b]]\n", "has the member \"['b']\"; expected the name of a task"),
        ("task: a\nmetadata: " + "9" * 5000 + "\n", ":2: "),
        ("task: a\nmetadata: 2024-99-99\n", ":2: month must be in 1..12"),
    ],
)
def test_files_that_are_no_task_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setattr("evaluators._lm_eval_sources._stock_index", dict)
    file = tmp_path / "task.yaml"
    file.write_text(text)
    key = "a" if text.startswith("group") else str(file)
    with pytest.raises(EvaluatorError) as refused:
        LmEvalTask(task=key, include_path=str(tmp_path))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value) or text.startswith("group")


@pytest.mark.parametrize(
    ("data", "said"), [("", "is empty"), ('{"question": "a"}\n{"question": "b", \n', "JSON parse")]
)
def test_broken_data(tmp_path: Path, data: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_task(tmp_path)
    (tmp_path / "pick.jsonl").write_text(data)
    with pytest.raises(EvaluatorError, match=rf"pick\.yaml:\d+: task 'pick': .*{said}"):
        LmEvalTask(task=str(file))
    assert capfd.readouterr().err == ""


def test_functions_that_are_not_there(tmp_path: Path) -> None:
    file = write_task(tmp_path, doc_to_text=None)
    file.write_text(file.read_text() + "doc_to_text: !function nowhere.text\n")
    with pytest.raises(EvaluatorError, match=r"pick\.yaml:\d+: task 'pick': the function 'nowhere\.text' cannot be"):
        LmEvalTask(task=str(file), allow_code=True)
    write_task(tmp_path, **{"class": "os.system"})
    with pytest.raises(EvaluatorError, match="task 'pick': building it failed: TypeError"):
        LmEvalTask(task=str(file), allow_code=True)


def test_data_may_lie_beside_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    options = {"data_files": {"test": "pick.jsonl"}, "cache_dir": str(tmp_path / "cache")}
    file = write_task(tmp_path, dataset_kwargs=options)
    assert len(LmEvalTask(task=str(file)).example_ids) == len(ROWS)
    (tmp_path / "pick.jsonl").unlink()
    where = f"looked for {tmp_path}/elsewhere/pick.jsonl and {tmp_path}/pick.jsonl"
    with pytest.raises(EvaluatorError, match=f"there is no file 'pick.jsonl'; {where}"):
        LmEvalTask(task=str(file))


def test_a_member_of_a_group_has_its_line(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "all.yaml").write_text("group: all\ntask:\n- task: pick\n  num_fewshot: 0\n  test_split: nowhere\n")
    with pytest.raises(EvaluatorError, match=r"all\.yaml:5: task 'pick': test_split is 'nowhere'"):
        LmEvalTask(task="all", include_path=str(tmp_path))


def test_files_of_lm_eval_may_be_included_and_may_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = tmp_path / "stock"
    stock.mkdir()
    monkeypatch.setattr("evaluators._lm_eval_files.STOCK", stock)
    (stock / "own.py").write_text("def text(doc):\n    return doc['question']\n")
    (stock / "own.yaml").write_text("doc_to_text: !function own.text\n")
    (stock / "broken.yaml").write_text("doc_to_text: !function nowhere.text\n")
    local = tmp_path / "local"
    local.mkdir()
    write_task(local, name="sound", doc_to_text=None, include="../stock/own.yaml")
    write_task(local, name="other", doc_to_text=None, include="../stock/broken.yaml")
    assert len(LmEvalTask(task="sound", include_path=str(local)).example_ids) == len(ROWS)
    with pytest.raises(EvaluatorError, match=r"other\.yaml:\d+: lm-eval cannot read its own .*broken\.yaml: .*nowhere"):
        LmEvalTask(task=str(local / "other.yaml"))


def test_scalars_are_read_as_lm_eval_reads_them(tmp_path: Path) -> None:
    file = write_task(tmp_path, metric_list=None)
    file.write_text(file.read_text() + "metric_list: [{metric: acc, aggregation: mean, higher_is_better: no}]\n")
    assert LmEvalTask(task=str(file)).higher_is_better is False


def test_what_only_prompts_show_is_found_without_weights(tmp_path: Path, model: TinyModel) -> None:
    file = write_task(tmp_path, description="{{nothing}}")
    with pytest.raises(EvaluatorError, match=r"pick\.yaml:\d+: task 'pick': building its prompts failed: UndefinedErr"):
        LmEvalTask(task=str(file)).preflight(model)


def test_null_label_in_select_split(tiny: TinyModels, tmp_path: Path) -> None:
    """`check` says so, in one line, before anything is loaded, and ends with 2."""
    rows = [{"question": f"{i}", "choices": ["1", "2"], "answer": None if i == 7 else 0} for i in range(60)]
    file = write_task(tmp_path, rows)
    tasks = {"t": {"evaluator": "lm_eval_task", "task": str(file)}}
    experts = {name: str(path) for name, path in tiny.experts.items()}
    search = tmp_path / "search.yaml"
    settings = search_file(tmp_path, base=str(tiny.base), experts=experts, tasks=tasks, space="uniform")
    search.write_text(strict_yaml.dump(settings))
    done = CliRunner().invoke(app, ["check", str(search)])
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "task 'pick': 1 of its documents cannot be scored" in said
    assert "Document 7 (from 0), whose target is None" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "changes",
    [
        {**WRITE, "metric_list": [{"metric": "exact_match", **METRIC}]},
        {"output_type": "loglikelihood", "doc_to_choice": None, "metric_list": [{"metric": "acc", **METRIC}]},
        {"output_type": "multiple_choice", "metric_list": [{"metric": "brier_score"}]},
        {"metric_list": [{"metric": "likelihood", **METRIC}]},
    ],
)
def test_documents_that_cannot_be_scored_are_named(tmp_path: Path, model: TinyModel, changes: dict[str, Any]) -> None:
    bad = [{**row, "answer": None if i in (2, 4) else row["answer"]} for i, row in enumerate(ROWS)]
    with pytest.raises(EvaluatorError, match=r"pick\.yaml:\d+: task 'pick': .*Document [02] \(from 0\)"):
        LmEvalTask(task=str(write_task(tmp_path, bad, **changes))).preflight(model)


@pytest.mark.parametrize(("accepts", "refused"), [("doc['answer'] != ''", False), ("doc['answer'] == 'a'", True)])
def test_functions_of_a_task_may_refuse_some_answers(
    tmp_path: Path, model: TinyModel, accepts: str, refused: bool
) -> None:
    """An answer that a function cannot take is no fault of the document, unless it takes none."""
    code = f"def score(doc, results):\n    assert {accepts} and results[0] != 'a'\n    return {{'exact_match': 1.0}}\n"
    (tmp_path / "own.py").write_text(code)
    rows = [{"question": f"{i}", "answer": "ab"[i % 2]} for i in range(4)]
    changes = {**WRITE, "doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match", **METRIC}]}
    file = write_task(tmp_path, rows, **changes)
    file.write_text(file.read_text() + "process_results: !function own.score\n")
    evaluator = LmEvalTask(task=str(file), allow_code=True)
    if refused:
        with pytest.raises(EvaluatorError, match=r"2 of its documents cannot.*Document 1 .*AssertionError.*Document 3"):
            evaluator.preflight(model)
    else:
        assert evaluator.preflight(model) == ()


def test_targets_that_are_none_of_the_choices_are_noted(tmp_path: Path, model: TinyModel) -> None:
    rows = [{**row, "answer": 5 if i == 3 else row["answer"]} for i, row in enumerate(ROWS)]
    (note,) = LmEvalTask(task=str(write_task(tmp_path, rows))).preflight(model)
    assert note.startswith(
        "lm-eval scores every answer to 1 of the documents of 'pick' as 0: their target is not among"
    )
    assert note.endswith("Document 3 (from 0), whose target is 5")


def test_task_names_are_printed_on_one_line(tmp_path: Path) -> None:
    name = "a\x1b[31m\n../../[b]"
    file = write_task(tmp_path, test_split="nowhere")
    file.write_text(file.read_text().replace("task: pick", f"task: {strict_yaml.dump(name, inline=True)}"))
    with pytest.raises(EvaluatorError) as refused:
        LmEvalTask(task=str(file))
    assert str(refused.value).isprintable()


def test_the_task_of_these_tests_works(tmp_path: Path, model: TinyModel) -> None:
    assert LmEvalTask(task=str(write_task(tmp_path))).preflight(model) == ()
    assert PICK["task"] == "pick"


def test_a_name_that_two_files_define_is_refused(tmp_path: Path) -> None:
    write_task(tmp_path)
    first = next(tmp_path.glob("*.yaml"))
    (tmp_path / "zz.yaml").write_text(first.read_text())
    with pytest.raises(EvaluatorError, match=rf"is defined in .*{first.name} and again in .*zz.yaml: rename one"):
        LmEvalTask(task=first.stem, include_path=str(tmp_path))
    assert LmEvalTask(task=str(tmp_path / "zz.yaml")).example_ids


def test_a_folder_beside_the_task_may_have_the_name_of_a_format(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    file = write_task(tmp_path, dataset_path="json", dataset_kwargs={"cache_dir": str(tmp_path / "cache")})
    (tmp_path / "pick.jsonl").rename(tmp_path / "json" / "test.jsonl")
    assert len(LmEvalTask(task=str(file)).example_ids) == len(ROWS)
