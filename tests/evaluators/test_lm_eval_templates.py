"""Endless templates are found in a child process, and named; honest ones cost next to nothing."""

import copy
import resource
from pathlib import Path
from typing import Any

import pytest

from evaluators import _bounded
from evaluators.base import EvaluatorError
from evaluators.lm_eval_task import LmEvalTask
from tests.evaluators.task_files import ROWS, write_task
from tests.evaluators.tiny_llama import TinyModel

LOOPS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
ENDLESS = {
    "loops": (LOOPS, "took more than 0.2 s"),
    "long text": ("{{ 'x' * 3000000000 }}", "took more than 1 GiB of memory"),
    "long text of a document": ("{{ question * 1000000000 }}", "took more than 1 GiB of memory"),
    "text beyond the limit": ("{{ question * 6000000 }}", "made a text of more than 10,000,000 characters"),
    "long list": ("{{ ([0] * 3000000000)|length }}", "took more than 1 GiB of memory"),
    "doubling": (
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "took more than",
    ),
    "power": ("{{ 10 ** (10 ** 9) }}", "took more than"),
    "format": ("{{ '%3000000000d' % 1 }}", "took more than 1 GiB of memory"),
    "filter": ("{{ 'x'|center(3000000000) }}", "took more than 1 GiB of memory"),
    "recursion": (
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n else '' }}{% endmacro %}{{ f(60) }}",
        "took more than 0.2 s",
    ),
    "last document": ("{% if question == '5?' %}" + LOOPS + "{% endif %}", "for document 5"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Honest templates here need microseconds of the fifth of a second that they have."""
    monkeypatch.setattr(_bounded, "SECONDS", 0.2)


@pytest.mark.parametrize(("template", "said"), ENDLESS.values(), ids=ENDLESS)
@pytest.mark.fault(
    "F32", "loops of 10^9 and texts of gigabytes in `doc_to_text`", "refused after seconds, naming the limit"
)
def test_endless_templates_are_refused(tmp_path: Path, template: str, said: str) -> None:
    file = write_task(tmp_path, doc_to_text=template)
    with pytest.raises(EvaluatorError, match=rf"pick\.yaml:5: task 'pick': this template .*{said}"):
        LmEvalTask(task=str(file))


@pytest.mark.parametrize(
    "changes",
    [
        {"doc_to_target": LOOPS},
        {"doc_to_choice": ["a", LOOPS]},  # no template to lm-eval, and tried all the same
        {"description": LOOPS},
        {"gen_prefix": LOOPS},
        {"fewshot_config": {"doc_to_text": LOOPS}},
    ],
)
def test_every_template_is_tried(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(EvaluatorError, match=r"this template took more than 0\.2 s"):
        LmEvalTask(task=str(write_task(tmp_path, **changes)))


def test_few_shot_examples_are_tried_too(tmp_path: Path) -> None:
    samples = [{"question": "other?", "choices": ["a", "b"], "answer": 0}]
    template = "{% if question == 'other?' %}" + LOOPS + "{% endif %}"
    file = write_task(tmp_path, doc_to_text=template, fewshot_config={"samples": samples}, num_fewshot=1)
    with pytest.raises(EvaluatorError, match="for document 6"):
        LmEvalTask(task=str(file))


@pytest.mark.parametrize("template", ["{{ ['a', 'b']|random }}", "{{ lipsum(3) }}"])
def test_what_renders_differently_each_time_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(EvaluatorError, match="rendering its first document"):
        LmEvalTask(task=str(write_task(tmp_path, doc_to_text=template)))


@pytest.mark.parametrize("template", [LOOPS, "{{ 'x' * 3000000000 }}"])
@pytest.mark.fault(
    "F32", "endless loops and texts of gigabytes in a chat template", "refused, naming the limit and the prompt"
)
def test_endless_chat_templates_are_refused(tmp_path: Path, model: TinyModel, template: str) -> None:
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = template
    evaluator = LmEvalTask(task=str(write_task(tmp_path)), apply_chat_template=True)
    with pytest.raises(EvaluatorError, match=r"chat template of the model's tokenizer \(.*model.* took more than"):
        evaluator.preflight(TinyModel(model.network, tokenizer, model.folder))
    assert evaluator.preflight(model) == ()


def test_limits_are_the_childs_own(tmp_path: Path) -> None:
    before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
    assert _bounded.excess(lambda step: step("x"), 1) is None
    assert [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)] == before
    assert len(LmEvalTask(task=str(write_task(tmp_path))).example_ids) == len(ROWS)


def test_what_is_raised_in_the_child_is_left_to_the_parent() -> None:
    def fail(step: Any) -> None:
        raise ValueError

    assert _bounded.excess(fail, 1) is None
