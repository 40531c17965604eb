"""Examples as they are shown: texts, the ends of tokens, control characters, long prompts."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluators.base import Preview
from evomerge.launch.previews import SHOWN, as_text, as_tokens, token_texts


def _words(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, each with the space before it."""
    vocabulary = {word: i for i, word in enumerate(["<s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def test_every_token_has_its_end_shown() -> None:
    tokenizer = _words("The", " mood", " is", " good", " bad")
    assert as_tokens(Preview("The mood is", (" good", " bad"), (1,)), tokenizer) == [
        "reads   'The| mood| is|'",
        "scores  ' good|', ' bad|' (right)",
    ]


def test_what_is_generated_is_shown_as_accepted() -> None:
    shown = as_tokens(Preview("The mood", ("good", "fine"), generated=True), _words("The", " mood"))
    assert shown == ["reads   'The| mood|'", "accepts 'good', 'fine'"]


def test_tokens_that_make_one_character_are_one() -> None:
    tokenizer = Tokenizer(models.BPE({chr(c): i for i, c in enumerate((0xC3, 0x00A9, 0x61))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert token_texts(fast, fast.encode("aéa")) == ["a", "é", "a"]


def test_control_characters_are_escaped() -> None:
    (line,) = as_text(Preview("a\nb\x1b[31m\u202e"))
    assert line == "reads   'a\\nb\\x1b[31m\\u202e'"


def test_long_prompts_lose_their_middle() -> None:
    (line,) = as_text(Preview("begin" + "x" * 1000 + "end"))
    assert len(line) < SHOWN + 30
    assert line.startswith("reads   'begin")
    assert line.endswith("end'")
    (line,) = as_tokens(Preview("begin" + " x" * 1000 + " end"), _words("begin", " x", " end"))
    assert len(line) < 2 * SHOWN
    assert line.startswith("reads   'begin| x|")
    assert line.endswith("| x| end|'")


def test_a_right_choice_beyond_the_first_is_shown() -> None:
    (_, line) = as_text(Preview("p", tuple("abcdefgh"), (6,)))
    assert line == "scores  'a', 'b', 'c', 'd', 'g' (right) and 3 more"
