"""Calibration data: texts, or prompts with answers, as tokens of one model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators._answers import Labeled, right_choices
from evaluators._examples import Line, as_texts, read_json_lines, read_text
from evaluators._tokens import encode, encode_pair, max_length, prefix_token
from evomerge.errors import EvomergeError

JSON_LINES = (".jsonl", ".ndjson")
#: Default number of tokens per example, unless the model's context is shorter.
LENGTH = 512


class CollectionError(EvomergeError):
    """Statistics that cannot be collected: no text, an unsupported model, too little memory or disk space."""


@dataclass(frozen=True)
class Text:
    """One example: the given part, and the part to learn from. Plain text has no given part."""

    given: str
    learnt: str


@dataclass(frozen=True)
class Example:
    """Tokens of one example; those from index `first`, at least 1, are its labels. The last is only predicted."""

    tokens: tuple[int, ...]
    first: int

    @property
    def length(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.tokens) - 1


def read_texts(file: Path, separator: str = " ") -> list[Text]:
    """Read the examples of a text file (one), or of JSON lines (.jsonl, .ndjson).

    A line has "text"; or "question" or "prompt", and "answer"; or also "choices", with the answer's index or text.
    separator: between prompt and answer. Raises EvaluatorError for other lines and unreadable files.
    """
    if file.suffix in JSON_LINES:
        lines = read_json_lines(file)
        right = _right_choices(lines)
        return [_text(line, right.get(line.where), separator) for line in lines]
    return [Text("", read_text(file))]


def encode_texts(texts: Sequence[Text], tokenizer: Any, length: int, limit: int | None = None) -> list[Example]:
    """Tokenize the first `limit` examples (None: all) to `length` tokens each: split texts, truncate prompts in front.

    Raises CollectionError if there is none.
    """
    found: list[Example] = []
    for text in texts:
        found += _answered(text, tokenizer, length) if text.given else _pieces(text.learnt, tokenizer, length)
        if limit is not None and len(found) >= limit:
            break
    if not found:
        raise CollectionError("The data have no text of at least two tokens.")
    return found[:limit]


def readable_length(network: Any, tokenizer: Any, wanted: int | None) -> int:
    """Return the tokens per example: `wanted`, else 512, or the model's context length if it is shorter."""
    most = max_length(network, tokenizer)
    if wanted is not None and not 2 <= wanted <= most:
        raise CollectionError(f"The length is {wanted}; expected 2 to {most} tokens, the model's context length.")
    return wanted or min(LENGTH, most)


def batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Group examples of equal length, up to `batch_tokens` tokens: no padding or masking is needed."""
    ordered = sorted(examples, key=lambda example: -example.length)  # stable; longest first, to run out of memory early
    batch: list[Example] = []
    for example in ordered:
        full = (len(batch) + 1) * example.length > batch_tokens
        if batch and (full or example.length != batch[0].length):
            yield batch
            batch = []
        batch.append(example)
    yield batch


def _text(line: Line, right: str | None, separator: str) -> Text:
    """Convert a line to an example. right: text of the right choice, for a line with choices."""
    if "text" in line.fields:
        return Text("", str(line.field("text")))
    answer = as_texts(line.field("answer"), f"{line.where}, answer")[0] if right is None else right
    return Text(line.prompt(None, None), separator + answer)


def _right_choices(lines: Sequence[Line]) -> dict[str, str]:
    """Return a line's location -> its right choice, for the lines with choices."""
    labeled = [
        Labeled(line.where, line.field("answer"), as_texts(line.field("choices"), f"{line.where}, choices"))
        for line in lines
        if "choices" in line.fields and "text" not in line.fields
    ]
    positions, _ = right_choices(labeled, None)
    return {each.where: each.choices[position] for each, position in zip(labeled, positions, strict=True)}


def _pieces(text: str, tokenizer: Any, length: int) -> list[Example]:
    tokens, prefix = encode(tokenizer, text), prefix_token(tokenizer)
    if prefix is not None and tokens[:1] != (prefix,):
        tokens = (prefix, *tokens)
    pieces = (tokens[start : start + length] for start in range(0, len(tokens), length))
    return [Example(piece, 1) for piece in pieces if len(piece) > 1]


def _answered(text: Text, tokenizer: Any, length: int) -> list[Example]:
    given, learnt = encode_pair(tokenizer, text.given, text.learnt)
    tokens = (given + learnt)[-length:]
    return [Example(tokens, max(len(tokens) - len(learnt), 1))]
