"""No code runs from a task file unless `allow_code` is set: each file here would leave a mark."""

from collections.abc import Callable
from pathlib import Path

import pytest

from evaluators.base import EvaluatorError
from evaluators.lm_eval_task import LmEvalTask
from tests.evaluators.task_files import write_task

WITH_FUNCTION = "process_results: !function evil.run\n"

#: What is put into the task file, besides func.yaml, which names a function, and evil.py, which leaves the mark.
HIDDEN = {
    "plain": WITH_FUNCTION,
    "include": "include: func.yaml\n",
    "merge key": "<<: {include: func.yaml}\n",
    "merge key with a list": "<<: {include: [func.yaml]}\n",
    "list of merges": "<<: [{num_fewshot: 0}, {include: func.yaml}]\n",
    "alias": "metadata: &m {include: func.yaml}\n<<: *m\n",
    "quoted merge of an alias": 'metadata: &m {include: func.yaml}\n"<<": *m\n',
    "nested merge": "<<: {<<: {include: func.yaml}}\n",
    "escaped key": '"incl\\u0075de": func.yaml\n',
    "in a list": "doc_to_choice: [a, !function evil.run]\n",
    "in a few-shot configuration": "fewshot_config: {samples: !function evil.run}\n",
    "sampler": "fewshot_config: {sampler: !function evil.run}\n",
    "filter": "filter_list: [{name: x, filter: [{function: !function evil.run}]}]\n",
    "aggregation": "metric_list: [{metric: acc, aggregation: !function evil.run, higher_is_better: true}]\n",
    "metric function": "metric_list: [{metric: !function evil.run, aggregation: mean, higher_is_better: true}]\n",
    "metric file": "metric_list: [{metric: EVIL, aggregation: mean, higher_is_better: true}]\n",
    "metric folder": "metric_list: [{metric: FOLDER/measure, aggregation: mean, higher_is_better: true}]\n",
    "metric of evaluate": "metric_list: [{metric: acc, hf_evaluate: true, aggregation: mean}]\n",
    "data set": "custom_dataset: !function evil.run\n",
    "data script": "dataset_path: EVIL\n",
    "data folder with a script": "dataset_path: FOLDER/measure\n",
    "class": "class: !function evil.Task\n",
    "class by name": "class: evil.Task\n",
    "python tag": "metadata: !!python/object/apply:evil.run []\n",
    "python tag of a module": "metadata: !!python/module:evil ''\n",
    "other tag": "metadata: !include func.yaml\n",
    "prompt of another file": "use_prompt: FOLDER/prompts.yaml:evil\n",
    "generated code": "unsafe_code: true\n",
    "template": "doc_to_text: \"{{ ''.__class__.__mro__[1].__subclasses__() }}\"\n",
}

KEYS = {"metric_list", "dataset_path", "doc_to_choice", "doc_to_text"}


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """text -> a task file with it; the modules beside it leave a mark when they are imported or called."""
    monkeypatch.setattr("evaluators._lm_eval_sources._stock_index", dict)  # a scan takes seconds
    mark = f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n"
    code = mark + "def run(*args, **kwargs):\n    return {'acc': 1.0}\nclass Task: ...\n"
    (tmp_path / "measure").mkdir()
    for file in ("evil.py", "measure/measure.py"):
        (tmp_path / file).write_text(code)
    (tmp_path / "func.yaml").write_text(WITH_FUNCTION)
    (tmp_path / "prompts.yaml").write_text("prompts: {evil: !!python/object/apply:evil.run []}\n")

    def write(text: str) -> Path:
        text = text.replace("EVIL", str(tmp_path / "evil.py")).replace("FOLDER", str(tmp_path))
        replaced = {line.split(":")[0] for line in text.splitlines()} & KEYS
        file = write_task(tmp_path, **dict.fromkeys(replaced))
        file.write_text(file.read_text() + text)
        return file

    return write


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("by_path", [True, False])
@pytest.mark.fault(
    "F31", "tags, includes, merge keys, metrics and scripts that run code", "refused with the line; no mark is left"
)
def test_code_that_a_task_file_hides_is_not_run(evil: Callable[[str], Path], hidden: str, by_path: bool) -> None:
    file = evil(hidden)
    options = {"task": str(file)} if by_path else {"task": "pick", "include_path": str(file.parent)}
    if hidden == HIDDEN["quoted merge of an alias"]:
        with pytest.raises(EvaluatorError, match="lm-eval has no key '<<'"):
            LmEvalTask(**options)
    else:
        with pytest.raises(EvaluatorError):
            LmEvalTask(**options).example_ids  # noqa: B018
    assert not (file.parent / "mark").exists()


@pytest.mark.parametrize(
    "group",
    [
        "group: all\ntask: [pick]\nprocess_results: !function evil.run\n",
        "group: all\ntask: [{task: pick, process_results: !function evil.run}]\n",
        "group: all\ntask: [{task: pick, <<: {include: func.yaml}}]\n",
        "group: all\ntask: [{group: inner, task: [{task: pick, unsafe_code: true}]}]\n",
        "group: all\ntask: [{task: pick, class: evil.Task}]\n",
        "group: all\ntask: [pick, other]\n",
        "group: all\ntask: [{task: own, dataset_path: EVIL, output_type: generate_until}]\n",
        "group: all\naggregate_metric_list: [{metric: acc, aggregation: !function evil.run}]\ntask: [pick]\n",
        "group: all\ntask: [{task: pick, metric_list: [{metric: EVIL, aggregation: mean, higher_is_better: true}]}]\n",
    ],
)
def test_code_that_a_group_hides_is_not_run(evil: Callable[[str], Path], group: str) -> None:
    folder = evil("").parent
    other = (folder / "pick.yaml").read_text().replace("task: pick", "task: other") + WITH_FUNCTION
    (folder / "other.yaml").write_text(other)
    (folder / "all.yaml").write_text(group.replace("EVIL", str(folder / "evil.py")))
    with pytest.raises(EvaluatorError):
        LmEvalTask(task="all", include_path=str(folder))
    assert not (folder / "mark").exists()


def test_code_runs_where_it_is_allowed(evil: Callable[[str], Path]) -> None:
    file = evil("<<: {include: func.yaml}\n")
    LmEvalTask(task=str(file), allow_code=True)
    assert (file.parent / "mark").exists()


def test_files_beside_the_task_that_hide_code_are_not_its_own(evil: Callable[[str], Path]) -> None:
    folder = evil("").parent
    other = (folder / "pick.yaml").read_text().replace("task: pick", "task: other") + WITH_FUNCTION
    (folder / "other.yaml").write_text(other)
    assert len(LmEvalTask(task="pick", include_path=str(folder)).example_ids) == 6
    assert not (folder / "mark").exists()
