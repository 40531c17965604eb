"""The tasks of the tiny models: right answers, disjoint sides, files that say the same."""

import json
from pathlib import Path
from random import Random

import pytest

from experiments.tiny_models.files import example_line, write_examples
from experiments.tiny_models.sets import DEMO, TINY
from experiments.tiny_models.tasks import Example, Task, count, find, largest, reverse, sort


def solve(prompt: str) -> str:
    """The answer, found another way than the program's: from the text of the prompt alone."""
    command, *arguments, _ = prompt.split(" ")
    if command == "count":
        return str(arguments[0].count("a"))
    if command == "find":
        return arguments[1][arguments[1].index(arguments[0]) + 1]
    if command == "largest":
        return str(max(map(int, arguments[0])))
    if command == "reverse":
        return arguments[0][::-1]
    return "".join(sorted(arguments[0]))


@pytest.mark.parametrize("task", [count(9), find(4), largest(5), reverse(5), sort(5)], ids=lambda t: t.name)
def test_answers_are_right(task: Task) -> None:
    for example in task.training(Random(0), 50) + task.evaluation(Random(0), 50):
        assert example.answer == solve(example.prompt)
        assert bool(example.choices) == task.multiple_choice
        if task.multiple_choice:
            assert len(set(example.choices)) == 4
            assert example.answer in example.choices


@pytest.mark.parametrize("task", [*DEMO.tasks, *TINY.tasks], ids=lambda t: t.name)
def test_training_never_sees_evaluation(task: Task) -> None:
    evaluation = {example.prompt for example in task.evaluation(Random(1), 60)}
    assert len(evaluation) == 60
    assert not evaluation & {example.prompt for example in task.training(Random(1), 3000)}


def test_the_same_seed_draws_the_same_examples() -> None:
    assert sort(5).evaluation(Random("s"), 20) == sort(5).evaluation(Random("s"), 20)


def test_more_examples_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="has too few different prompts for 200 evaluation examples"):
        sort(2).evaluation(Random(0), 200)


def test_lines_have_the_fields_that_evaluators_read(tmp_path: Path) -> None:
    chosen = Example("count abc =", "1", ("0", "1", "2", "3"))
    written = Example("sort 21 =", "12")
    assert example_line(chosen) == {"question": "count abc =", "choices": ["0", "1", "2", "3"], "answer": 1}
    write_examples(tmp_path / "x.jsonl", [chosen, written])
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines[1] == {"prompt": "sort 21 =", "answer": "12"}
