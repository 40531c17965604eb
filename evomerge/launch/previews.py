"""Previews of a task's examples as the model sees them: prompt, continuations and ends of tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

from evaluators._tokens import encode_pair, encode_prompt
from evaluators.base import Preview

#: Prompts are shown up to this many characters, the beginning and the end of longer ones.
SHOWN = 240
#: Choices of one example that are shown.
SHOWN_CHOICES = 4
#: The share of a long prompt's characters that is shown of its beginning.
BEGINNING = 0.4
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def as_text(preview: Preview) -> list[str]:
    """Format an example as lines, without a tokenizer."""
    return _lines(preview, _shorten([preview.prompt]), [[text] for text in preview.continuations], "")


def as_tokens(preview: Preview, tokenizer: Any) -> list[str]:
    """Format an example as lines, with `|` after every token that is read or scored."""
    if preview.generated or not preview.continuations:
        head = encode_prompt(tokenizer, preview.prompt)
        tails = [[text] for text in preview.continuations]
    else:
        pairs = [encode_pair(tokenizer, preview.prompt, text) for text in preview.continuations]
        head = pairs[0][0]
        tails = [[*token_texts(tokenizer, tail), ""] for _, tail in pairs]
    return _lines(preview, _shorten([*token_texts(tokenizer, head), ""]), tails, "|")


def token_texts(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Return the text that each token adds; tokens that only together form a character are one entry."""
    texts, done, begun = [], "", 0
    for end in range(1, len(tokens) + 1):
        # Decode from the first token on: the text of a token depends on what precedes it.
        text = tokenizer.decode(list(tokens[:end]), clean_up_tokenization_spaces=False)
        if text.endswith(_UNFINISHED) and end < len(tokens):
            continue
        alone = tokenizer.decode(list(tokens[begun:end]), clean_up_tokenization_spaces=False)
        texts.append(text[len(done) :] if text.startswith(done) else alone)
        done, begun = text, end
    return texts


def _lines(preview: Preview, prompt: list[str], continuations: Sequence[list[str]], mark: str) -> list[str]:
    lines = [f"reads   {_quoted(prompt, mark)}"] if preview.prompt else []
    if not continuations:
        return lines
    mark = "" if preview.generated else mark
    quoted = [_quoted(_shorten(texts), mark) for texts in continuations]
    quoted = [text + (" (right)" if i in preview.right else "") for i, text in enumerate(quoted)]
    shown = quoted[:SHOWN_CHOICES] + [quoted[i] for i in preview.right if i >= SHOWN_CHOICES]
    missing = len(quoted) - len(shown)
    what = "accepts" if preview.generated else "scores "
    return [*lines, f"{what} {', '.join(shown)}" + (f" and {missing} more" if missing else "")]


def _quoted(texts: Sequence[str], mark: str) -> str:
    """Quote the texts with a mark between them; control characters and line ends are escaped."""
    return "'" + mark.join(_escaped(text) for text in texts) + "'"


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def _shorten(texts: Sequence[str]) -> list[str]:
    """Drop the middle texts if all together are long."""
    if sum(map(len, texts)) <= SHOWN:
        return list(texts)
    if len(texts) <= 2:
        whole = texts[0]
        return [whole[: int(SHOWN * BEGINNING)] + " ... " + whole[-int(SHOWN * (1 - BEGINNING)) :], *texts[1:]]
    head = list(_within(texts, SHOWN * BEGINNING))
    tail = list(_within(texts[::-1], SHOWN * (1 - BEGINNING)))[::-1]
    return [*head, " ... ", *tail]


def _within(texts: Sequence[str], characters: float) -> Iterator[str]:
    used = 0
    for text in texts:
        used += len(text)
        if used > characters:
            return
        yield text
