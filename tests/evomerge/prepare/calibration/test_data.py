import json
from pathlib import Path
from typing import Any

import pytest

from evaluators.base import EvaluatorError
from evomerge.prepare.calibration.data import (
    CollectionError,
    Example,
    Text,
    batches,
    encode_texts,
    read_texts,
    readable_length,
)
from tests.evaluators.tiny_llama import TinyModel, build


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build(tmp_path_factory.mktemp("model"), 0)


def lines(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_all_forms_of_data_are_read(tmp_path: Path) -> None:
    file = lines(
        tmp_path,
        {"text": "abc"},
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        {"question": "q", "choices": ["x", "y"], "answer": "x"},
        {"prompt": "p", "answer": ["b", "c"]},
        {"prompt": "p", "answer": 7},
    )
    expected = [Text("", "abc"), Text("q", " y"), Text("q", " x"), Text("p", " b"), Text("p", " 7")]
    assert read_texts(file) == expected
    assert read_texts(file, ":")[1] == Text("q", ":y")
    (tmp_path / "data.txt").write_text("one\ntwo")
    assert read_texts(tmp_path / "data.txt") == [Text("", "one\ntwo")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "answer is 2; expected an index from 0 to 1"),
        ({"question": "q", "choices": ["x", "y"], "answer": True}, "answer is True"),
        ({"question": "q"}, "has no field 'answer'"),
        ({"answer": "q"}, "has no field 'prompt'"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluatorError, match=message):
        read_texts(lines(tmp_path, {"text": "fine"}, row))


def test_text_is_read_in_pieces_behind_the_first_token(model: TinyModel) -> None:
    examples = encode_texts([Text("", "abcdefg"), Text("", "hi")], model.tokenizer, 4)
    assert ["".join(model.tokenizer.convert_ids_to_tokens(e.tokens)) for e in examples] == ["<s>abc", "defg", "<s>hi"]
    assert [example.first for example in examples] == [1, 1, 1]
    assert encode_texts([Text("", "abcdefg"), Text("", "hi")], model.tokenizer, 4, 1) == examples[:1]
    # A piece of one token says nothing.
    assert len(encode_texts([Text("", "abcd")], model.tokenizer, 4)) == 1


def test_only_answers_are_labels_and_prompts_are_cut_in_front(model: TinyModel) -> None:
    whole, cut, answer_only = (encode_texts([Text("abcd", " xy")], model.tokenizer, length)[0] for length in (99, 5, 2))
    text = "".join(model.tokenizer.convert_ids_to_tokens(whole.tokens))
    assert text[whole.first - len(whole.tokens) :] == text[-3:] == " xy"
    assert cut == Example(whole.tokens[-5:], 2)
    assert answer_only == Example(whole.tokens[-2:], 1)
    assert cut.length == 4


def test_data_without_text(model: TinyModel) -> None:
    with pytest.raises(CollectionError, match="no text of at least two tokens"):
        encode_texts([Text("", "")], model.tokenizer, 8)


def test_readable_length_is_limited_by_the_context(model: TinyModel) -> None:
    assert readable_length(model.network, model.tokenizer, None) == 256
    assert readable_length(model.network, model.tokenizer, 7) == 7
    for wanted in (1, 257):
        with pytest.raises(CollectionError, match=f"length is {wanted}; expected 2 to 256"):
            readable_length(model.network, model.tokenizer, wanted)


def test_batches_are_of_one_length_and_within_the_limit() -> None:
    examples = [Example(tuple(range(n)), 1) for n in (3, 9, 3, 5, 3, 9, 30)]
    found = list(batches(examples, 10))
    assert [[len(example.tokens) for example in batch] for batch in found] == [[30], [9], [9], [5], [3, 3, 3]]
    assert found[4][0] is examples[0]
