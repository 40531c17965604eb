"""Whole texts as a tokenizer encodes them for an encoder or a classifier, and padded batches of them."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluators._tokens import NO_LIMIT, max_length
from evaluators.base import EvaluatorError

#: What a tokenizer gives for every token besides its number, with the value for padding.
PADDING = {"attention_mask": 0, "token_type_ids": 0}


@dataclass(frozen=True)
class Encoded:
    """Texts for one tokenizer. inputs: arguments of the network of each text. notes: about truncated ones."""

    inputs: Sequence[Mapping[str, Sequence[int]]]
    notes: tuple[str, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each text."""
        return [len(each["input_ids"]) for each in self.inputs]


def encoded(network: Any, tokenizer: Any, texts: Sequence[Sequence[str]], what: str) -> Encoded:
    """Encode texts, or pairs of texts, with special tokens; longer ones than the context are truncated.

    what: what they are, in plural, for messages. Raises EvaluatorError for one without tokens.
    """
    length = _length(network, tokenizer)
    whole = [dict(tokenizer(*each, return_attention_mask=True)) for each in texts]
    long = [row for row, each in enumerate(whole) if len(each["input_ids"]) > length]
    for row in long:
        whole[row] = dict(tokenizer(*texts[row], truncation=True, max_length=length, return_attention_mask=True))
    empty = next((row for row, each in enumerate(whole) if not each["input_ids"]), None)
    if empty is not None:
        raise EvaluatorError(f"Number {empty} (from 0) of the {what} has no tokens; expected some text.")
    note = f"{len(long)} of {len(whole)} {what} have more than {length} tokens and are truncated"
    return Encoded(whole, (note,) if long else ())


def pad_token(config: Any) -> int | None:
    """Return the token by which the network recognizes padding; None if it has none."""
    return getattr(config.get_text_config(), "pad_token_id", None)


def collated(examples: Sequence[Mapping[str, Sequence[int]]], pad: int, network: Any) -> dict[str, Tensor]:
    """Return the arguments of one forward pass, padded on the right, (n_rows, width)."""
    width = max(len(each["input_ids"]) for each in examples)
    takes = inspect.signature(network.forward).parameters
    given = {name: fill for name, fill in PADDING.items() if name in takes and name in examples[0]}
    return {
        name: torch.tensor(
            [[*each[name], *[fill] * (width - len(each[name]))] for each in examples], device=network.device
        )
        for name, fill in {"input_ids": pad, **given}.items()
    }


def _length(network: Any, tokenizer: Any) -> int:
    """Return the context length in tokens; where positions count from the padding token on, less by those before."""
    length = max_length(network, tokenizer)
    own = getattr(tokenizer, "model_max_length", None)
    modules = network.named_modules() if isinstance(network, nn.Module) else ()
    before = max(
        (
            each.padding_idx + 1
            for name, each in modules
            if "position" in name and isinstance(each, nn.Embedding) and each.padding_idx is not None
        ),
        default=0,
    )
    return min(length - before, int(own) if own is not None and own < NO_LIMIT else length)
