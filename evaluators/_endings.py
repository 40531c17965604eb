"""The ends of generated texts: end tokens, stop strings, and logits that are no numbers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from evaluators._rows import Tokens

#: Extra tokens to look back for a stop string, which may be tokenized differently from its own encoding.
LOOK_BACK = 2


@dataclass(frozen=True)
class Generation:
    """A continuation up to its stop string.

    truncated: whether the length limit came first. finite: False if the weights yielded NaN. n_tokens: number of tokens
    before an end token, with tokens after a stop string if only that ended it. tokens: the generated ones up to the end
    token.
    """

    text: str
    truncated: bool
    finite: bool
    n_tokens: int
    tokens: Tokens


class Endings:
    """Cuts continuations at end tokens and stop strings. stop: strings that end a continuation and are removed."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self.stop = tuple(text for text in stop if text)
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in self.stop]
        self._window = max(map(len, encoded), default=0) + LOOK_BACK

    def stopped(self, written: Sequence[Sequence[int]]) -> list[bool]:
        """Return whether each continuation contains a stop string, which ended it no earlier than its last token."""
        if not self.stop or not written:
            return [False] * len(written)
        texts = self._tokenizer.batch_decode([tokens[-self._window :] for tokens in written])
        return [any(stop in text for stop in self.stop) for text in texts]

    def up_to_stop(self, tokens: list[int]) -> list[int]:
        """Return tokens up to the first one with which they contain a stop string."""
        if not self.stopped([tokens])[0] and not any(stop in self._tokenizer.decode(tokens) for stop in self.stop):
            return tokens
        sizes = range(1, len(tokens) + 1)
        stopped = self.stopped([tokens[:size] for size in sizes])
        return tokens[: next((size for size, ended in zip(sizes, stopped, strict=True) if ended), len(tokens))]

    def finish(self, tokens: Sequence[int], ends: Collection[int], finite: bool) -> Generation:
        """Return generated tokens as a text, cut at its end. ends: end tokens."""
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        text = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        stopped = end is not None or any(stop in text for stop in self.stop)
        for stop in self.stop:
            text = text.split(stop)[0]
        upto = None if end is None else end + 1
        return Generation(text, not stopped, finite, len(tokens[:end]), tuple(tokens[:upto]))


class StopStrings(StoppingCriteria):  # type: ignore[misc] # transformers has no types
    """Ends each row of `generate` as soon as its continuation contains a stop string. width: of the prompts."""

    def __init__(self, endings: Endings, width: int) -> None:
        self._endings, self._width = endings, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002 - given by generate
        return torch.tensor(self._endings.stopped(input_ids[:, self._width :].tolist()), device=input_ids.device)


class NumberWatch(LogitsProcessor):  # type: ignore[misc] # transformers has no types
    """Records the rows whose logits had a NaN: their maximum would be an arbitrary token."""

    def __init__(self, n_rows: int, device: Any) -> None:
        self.broken = torch.zeros(n_rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.broken |= scores.isnan().reshape(len(self.broken), -1).any(dim=1)  # beams of a prompt are adjacent
        return scores


def pad_token(tokenizer: Any) -> int:
    """Return any token: padding is masked, and tokens after the end are dropped."""
    candidates = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in candidates if token is not None), 0)
