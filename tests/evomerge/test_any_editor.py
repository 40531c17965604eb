"""Files that people bring mean the same from any editor, and other encodings are named, wherever they are read."""

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluators.callable import Callable as CallableEvaluator
from evaluators.exact_match import ExactMatch
from evaluators.multiple_choice import MultipleChoice
from evaluators.perplexity import Perplexity
from evomerge.commands.tasks import guess_task
from evomerge.config import load_config
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.models.lora_config import read_lora_config
from evomerge.merging.models.shards import read_json
from evomerge.prepare.calibration.data import read_texts
from evomerge.recipe.file import read_merge

SEARCH = "# caf\u00e9\nbase: b\nexperts: {a: c}\ntasks:\n  t: {evaluator: synthetic}\nstudy: s\n"
MERGEKIT = "# caf\u00e9\nmerge_method: linear\nmodels:\n- {model: x, parameters: {weight: 1}}\n"
RECIPE = "# caf\u00e9\nevomerge: 1\nbase: b\ninputs: [a]\nmethod: linear\ncoefficients: {weight: 1}\n"
ANSWERS = '{"prompt": "caf\u00e9\u2028", "answer": "b"}\n{"prompt": "d", "answer": "e"}\n'
CHOICES = '{"prompt": "caf\u00e9\u2028", "choices": ["b", "c"], "answer": 0}\n'
TEXTS = '{"text": "caf\u00e9\u2028 one"}\n{"text": "two"}\n'

#: Name of the file, its text, and all that is read from it.
FILES: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "answers": ("x.jsonl", ANSWERS, lambda file: ExactMatch(file=str(file), max_new_tokens=2).example_ids),
    "choices": ("x.jsonl", CHOICES, lambda file: MultipleChoice(file=str(file)).example_ids),
    "texts": ("x.jsonl", TEXTS, lambda file: Perplexity(file=str(file)).example_ids),
    "prose": ("x.txt", "caf\u00e9\nline two\n", lambda file: Perplexity(file=str(file)).example_ids),
    "examples": (
        "x.txt",
        "caf\u00e9\u2028one\n\ntwo\n",
        lambda file: CallableEvaluator(function="builtins:len", examples=str(file)).example_ids,
    ),
    "data": ("x.jsonl", ANSWERS, read_texts),
    "prose data": ("x.txt", "caf\u00e9\nline two\n", read_texts),
    "task": ("x.jsonl", ANSWERS, lambda file: guess_task(str(file))),
    "lm-eval task": ("x.yaml", "task: caf\u00e9\n", lambda file: guess_task(str(file))),
    "search file": ("x.yaml", SEARCH, lambda file: load_config(file).as_dict()),
    "recipe": ("x.yaml", RECIPE, lambda file: read_merge(file).recipe),
    "mergekit": ("x.yaml", MERGEKIT, lambda file: read_mergekit(file).recipe),
    "configuration": ("config.json", '{"a": "caf\u00e9"}', lambda file: read_json(file.parent, file.name)),
    "adapter": (
        "adapter_config.json",
        '{"peft_type": "LORA", "r": 2,\n"lora_alpha": 4, "revision": "caf\u00e9"}',
        lambda file: read_lora_config(file.parent),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_byte_order_mark(tmp_path: Path, name: str) -> None:
    file, text, read = FILES[name]
    path = tmp_path / file
    found = []
    for data in (text.encode(), codecs.BOM_UTF8 + text.encode(), text.replace("\n", "\r\n").encode()):
        path.write_bytes(data)
        found.append(read(path))
    assert found[0] == found[1] == found[2]
    for data, why in ((text.encode("utf-16"), "UTF-16"), (text.encode("latin-1", "ignore"), "line [12]: byte 0xe9")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=why) as error:
            read(path)
        assert str(path) in str(error.value)
