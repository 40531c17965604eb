"""Few-shot examples, system messages and chats, in the two evaluators that read JSON lines."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluators._presentation import Presentation, draw_shots
from evaluators.base import EvaluatorError, split_of
from evaluators.exact_match import ExactMatch
from evaluators.multiple_choice import MultipleChoice
from tests.evaluators.tiny_llama import TinyModel, write_lines

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
N = 30


@pytest.fixture
def choices(tmp_path: Path) -> Path:
    rows = [{"prompt": f"q{i}", "choices": ["aa", "b", "cd"], "answer": i % 3} for i in range(N)]
    return write_lines(tmp_path / "choices.jsonl", [*rows, *rows[:10]])


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "sums.jsonl", [{"prompt": f"s{i}=", "answer": str(i)} for i in range(N)])


@pytest.fixture
def chatting(model: TinyModel) -> TinyModel:
    return _with_template(model, CHAT)


def _with_template(model: TinyModel, template: str | None) -> TinyModel:
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = template
    return replace(model, tokenizer=tokenizer)


def _prompts(evaluator: Any) -> list[str]:
    return [evaluator.preview(row).prompt for row in range(len(evaluator.example_ids))]


@pytest.mark.parametrize("kind", ["choices", "sums"])
def test_shown_examples_are_the_same_everywhere_and_scored_nowhere(
    kind: str, choices: Path, sums: Path, model: TinyModel, tmp_path: Path
) -> None:
    def build(file: Path, **options: Any) -> Any:
        made: Any = (
            MultipleChoice(file=str(file), **options) if kind == "choices" else ExactMatch(file=str(file), **options)
        )
        made.preflight(model)
        return made

    file = choices if kind == "choices" else sums
    plain, shown = build(file), build(file, num_fewshot=3)
    assert set(shown.example_ids) < set(plain.example_ids)
    prompts = _prompts(shown)
    starts = {prompt.rsplit("\n\n", 1)[0] for prompt in prompts}
    assert len(starts) == 1, "every example of every split sees the same ones"
    (start,) = starts
    solved = start.split("\n\n")
    assert len(solved) == 3
    asked = {prompt.rsplit("\n\n", 1)[1] for prompt in prompts}
    for text in solved:
        question, answer = text.split(" ")
        assert question not in asked, "its answer would be in sight"
        number = int(question.strip("qs="))
        assert answer == (["aa", "b", "cd"][number % 3] if kind == "choices" else str(number))
    assert {split_of(name, (0.5, 0.2, 0.3)) for name in shown.example_ids} == {"search", "select", "report"}
    lines = file.read_text().splitlines(keepends=True)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(lines)))
    assert {prompt.rsplit("\n\n", 1)[0] for prompt in _prompts(build(turned, num_fewshot=3))} == starts
    assert len(build(file, num_fewshot=3, limit=5).example_ids) == 5


def test_without_new_options_nothing_changes(choices: Path, model: TinyModel) -> None:
    evaluator = MultipleChoice(file=str(choices))
    evaluator.preflight(model)
    assert _prompts(evaluator)[:2] == ["q0", "q1"]
    assert len(evaluator.example_ids) == N + 10


@pytest.mark.parametrize("count", [-1, True, 1.5, N, N + 5])
def test_numbers_of_examples_that_cannot_be_shown(choices: Path, count: Any) -> None:
    with pytest.raises(EvaluatorError, match=f"num_fewshot is {count}"):
        MultipleChoice(file=str(choices), num_fewshot=count)


def test_a_chat_is_the_templates(choices: Path, sums: Path, chatting: TinyModel) -> None:
    one = MultipleChoice(file=str(choices), num_fewshot=1, system="S", apply_chat_template=True)
    one.preflight(chatting)
    view = one.preview(0)
    (shot,) = draw_shots([f"q{i}\naa\nb\ncd" for i in range(N)], 1)[0]
    expected = f"<system>S\n<user>q{shot}\n<assistant>{['aa', 'b', 'cd'][shot % 3]}\n<user>{{}}\n<assistant>"
    first = next(i for i in range(N) if i != shot)
    assert view.prompt == expected.format(f"q{first}")
    assert view.continuations == ("aa", "b", "cd"), "the template separates"
    two = ExactMatch(file=str(sums), apply_chat_template=True)
    two.preflight(chatting)
    assert two.preview(3).prompt == "<user>s3=\n<assistant>"
    three = ExactMatch(file=str(sums), system="S", apply_chat_template=True)
    three.preflight(_with_template(chatting, NO_SYSTEM))
    assert three.preview(3).prompt == "<user>s3=\n<assistant>"


def test_choices_are_scored_after_what_is_presented(choices: Path, chatting: TinyModel) -> None:
    evaluator = MultipleChoice(file=str(choices), num_fewshot=2, apply_chat_template=True, limit=6)
    scores = evaluator.score(chatting)
    for row in range(6):
        prompt = evaluator.preview(row).prompt
        context = chatting.tokenizer.encode(prompt.rstrip())
        for choice, found in zip(("aa", "b", "cd"), (scores.choices or ())[row], strict=True):
            tokens = chatting.tokenizer.encode(prompt + choice)
            with torch.no_grad():
                logits = chatting.network(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
            expected = sum(float(logits[i - 1, tokens[i]]) for i in range(len(context), len(tokens)))
            assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("build", [MultipleChoice, ExactMatch])
def test_a_chat_needs_a_template(build: Callable[..., Any], choices: Path, model: TinyModel) -> None:
    options = {} if build is MultipleChoice else {"answer": "choices"}
    with pytest.raises(EvaluatorError, match="has no chat template"):
        build(file=str(choices), apply_chat_template=True, **options).preflight(_with_template(model, None))


def test_a_template_that_never_ends_is_refused(
    choices: Path, model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators._bounded.SECONDS", 0.2)
    endless = "{% for i in range(100000) %}{% for j in range(100000) %}{% set x = i %}{% endfor %}{% endfor %}"
    evaluator = MultipleChoice(file=str(choices), apply_chat_template=True, limit=2)
    with pytest.raises(EvaluatorError, match=r"chat template took more than 0\.2 s for one prompt"):
        evaluator.preflight(_with_template(model, endless))


def test_prompts_that_lose_their_beginning_are_said(tmp_path: Path, model: TinyModel) -> None:
    rows = [{"prompt": "x" * size, "choices": ["a", "b"], "answer": 0} for size in (10, 300)]
    (note,) = (
        n
        for n in MultipleChoice(file=str(write_lines(tmp_path / "l.jsonl", rows))).preflight(model)
        if "truncated" in n
    )
    assert note.startswith("1 of 2 prompts are truncated at the beginning: the longest has 302 tokens")
    assert "reads 256" in note


def test_a_system_message_without_a_chat_comes_first() -> None:
    presentation = Presentation("Be brief.", (("1+1=", "2"),), "")
    assert presentation.of_all(["2+2="], None) == ["Be brief.\n\n1+1=2\n\n2+2="]


def test_shots_do_not_move_when_others_join() -> None:
    contents = [f"example {i}" for i in range(200)]
    shown = [contents[i] for i in draw_shots(contents, 4)[0]]
    assert len(set(shown)) == 4
    fewer = [text for text in contents if text in shown or int(text.split()[1]) % 2]
    assert [fewer[i] for i in draw_shots(fewer, 4)[0]] == shown
    np.testing.assert_array_equal(draw_shots(contents, 0)[1], range(200))
