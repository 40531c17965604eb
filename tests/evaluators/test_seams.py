"""White space between a prompt and what follows it."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evaluators._seams import trailing_notes
from evaluators.multiple_choice import MultipleChoice
from tests.evaluators.tiny_llama import TinyModel, write_lines


@pytest.mark.parametrize(
    ("prompt", "choices", "options", "notes"),
    [
        ("Mood:", [" good", " bad"], {}, ["2 of 2 choices follow '  ' instead of one space"]),
        ("Mood: ", ["good", "bad"], {}, ["2 of 2 choices follow '  '"]),
        ("Mood:\n", ["good", "bad"], {}, ["2 of 2 choices follow '\\n '"]),
        ("Mood", ["good", " bad"], {}, ["1 of 2 choices follow '  '"]),
        ("Mood", ["good", "bad"], {"separator": ""}, ["2 of 2 choices follow their prompt without white space"]),
        ("Mood:", ["good", "bad"], {}, []),
        ("Mood:", [" good", " bad"], {"separator": ""}, []),
        ("Mood:", ["good", "bad"], {"separator": "\n"}, []),
    ],
)
def test_choices_that_follow_too_much_or_too_little_white_space(
    tmp_path: Path, model: TinyModel, prompt: str, choices: list[str], options: dict[str, Any], notes: list[str]
) -> None:
    file = write_lines(tmp_path / "q.jsonl", [{"prompt": prompt, "choices": choices, "answer": choices[0]}])
    found = MultipleChoice(file=str(file), **options).preflight(model)
    assert len(found) == len(notes)
    assert all(start in note for start, note in zip(notes, found, strict=True))


def test_a_prompt_must_not_end_inside_of_a_token() -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["the answer is seven", "an answer is seven"] * 5
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, initial_alphabet=[]))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    (note,) = trailing_notes(fast, ["answer is ", "answer is"], ["seven", "seven"])
    assert note.startswith("1 of 2 prompts end with white space, as in 'answer is '")


def test_a_prompt_may_end_with_a_space_that_is_a_token_of_its_own(model: TinyModel) -> None:
    assert trailing_notes(model.tokenizer, ["answer: "], ["7"]) == ()


def test_choices_that_are_the_same_tokens_are_noted(tmp_path: Path, model: TinyModel) -> None:
    rows = [{"prompt": "p", "choices": ["x", "é", "ü"], "answer": answer} for answer in (0, 1, 2)]
    (note,) = MultipleChoice(file=str(write_lines(tmp_path / "q.jsonl", rows))).preflight(model)
    assert note.startswith("1 of 3 examples can only score 0")
