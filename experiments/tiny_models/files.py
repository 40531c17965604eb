"""The tasks as files: JSON lines for the evaluators, and the same lines as tasks of lm-evaluation-harness."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tasks import Example, Task

MULTIPLE_CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

GENERATE = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: answer
generation_kwargs:
  until: ["\\n"]
  do_sample: false
  max_gen_toks: 12
filter_list:
  - name: none
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def example_line(example: Example) -> dict[str, Any]:
    """`question, choices, answer` (an index) where there are choices, else `prompt, answer`."""
    if example.choices:
        answer = example.choices.index(example.answer)
        return {"question": example.prompt, "choices": list(example.choices), "answer": answer}
    return {"prompt": example.prompt, "answer": example.answer}


def write_examples(file: Path, examples: Sequence[Example]) -> None:
    """One JSON object per line."""
    lines = (json.dumps(example_line(example)) for example in examples)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def lm_eval_task(task: Task, file: Path) -> str:
    """The YAML of one task. It names its data by absolute path: lm-eval reads others from where it is started."""
    template = MULTIPLE_CHOICE if task.multiple_choice else GENERATE
    return template.format(name=task.name, file=json.dumps(str(file.resolve())))
