"""Texts in windows: pieces of limited length in characters, and the tokens of each that can be scored."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from evaluators._rows import Tokens
from evaluators._tokens import encode, prefix_token
from evaluators.base import EvaluatorError


def check_window(window: int) -> None:
    """Raise EvaluatorError unless `window` is a positive number of characters."""
    if window < 1:
        raise EvaluatorError(f"window is {window}; expected a number of characters, at least 1.")


def pieces(text: str, size: int) -> Iterator[str]:
    """Yield pieces of at most `size` characters, cut between words unless a word is longer than that."""
    piece = ""
    for word in re.findall(r"\s*\S+", text):
        if piece and len(piece) + len(word) > size:
            yield piece.strip()
            piece = ""
        piece += word
        while len(piece.strip()) > size:
            yield piece.strip()[:size]
            piece = piece.strip()[size:]
    if piece.strip():
        yield piece.strip()


def chunks(tokens: Tokens, prefix: int | None, length: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Yield a window as (context, continuation) pairs of at most `length` tokens; each token is scored once.

    The first token is scored after the tokenizer's BOS or EOS; it is context if there is neither, or
    if it is that token itself.
    """
    if prefix is not None and tokens[:1] != (prefix,):
        tokens = (prefix, *tokens)
    for start in range(0, max(len(tokens) - 1, 1), length):
        yield tokens[start : start + 1], tokens[start + 1 : start + 1 + length]


def windows_as_pairs(windows: Sequence[str], tokenizer: Any, length: int) -> list[list[tuple[Tokens, Tokens]]]:
    """Return the (context, continuation) pairs of each window.

    Raises EvaluatorError for a window without a token to score.
    """
    prefix = prefix_token(tokenizer)
    pairs = [list(chunks(encode(tokenizer, window), prefix, length)) for window in windows]
    scored = [sum(len(continuation) for _, continuation in each) for each in pairs]
    if 0 in scored:
        row = scored.index(0)
        raise EvaluatorError(
            f"Example {row} (from 0), {windows[row]!r}, has no token to score: the first one can be scored "
            "only after BOS or EOS, and the tokenizer has neither. Remove the example, or use a larger `window`."
        )
    return pairs
