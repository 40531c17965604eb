"""Conversion of texts to tokens and tokens to batches, by the conventions of lm-evaluation-harness.

The results agree with https://github.com/EleutherAI/lm-evaluation-harness
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from evaluators.base import EvaluatorError, LanguageModel

Prepared = TypeVar("Prepared")

#: Context length of a model whose configuration specifies none.
DEFAULT_MAX_LENGTH = 2048
#: Maximum fraction of padding in a batch.
PADDING = 1 / 8
#: Tokens per batch by network, where a worker has chosen them. An attribute of the network would be lost when its state
#: is restored before each scoring.
_CHOSEN: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
#: transformers' "no limit" is 1e30; no tokenizer has a real limit above this.
NO_LIMIT = 10**9


class PerTokenizer(Generic[Prepared]):
    """An object that depends on the tokenizer but not on the weights: built at first use, then kept."""

    def __init__(self, make: Callable[[LanguageModel], Prepared]) -> None:
        self._make = make
        self._tokenizer: Any = None
        self._prepared: Prepared | None = None

    def of(self, model: LanguageModel) -> Prepared:
        """Return the prepared object for the model's tokenizer."""
        if self._prepared is None or self._tokenizer is not model.tokenizer:
            self._prepared = self._make(model)
            self._tokenizer = model.tokenizer
        return self._prepared


def prefix_token(tokenizer: Any) -> int | None:
    """Return the token that precedes a text without context: BOS, else EOS, else None."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return None if token is None else int(token)


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Encode a text with the tokenizer's special tokens, but without a second BOS."""
    prefix = prefix_token(tokenizer)
    if prefix is not None and text.startswith(tokenizer.decode(prefix)):
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    return tuple(tokenizer.encode(text))


def encode_pair(tokenizer: Any, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Encode context and continuation together and split them after the context's tokens.

    White space at the end of the context moves to the continuation; an empty context becomes BOS or EOS.
    """
    if context == "":
        return _encode_alone(tokenizer, continuation)
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    whole = encode(tokenizer, stripped + continuation)
    head = encode(tokenizer, stripped)
    if len(whole) <= len(head):
        raise EvaluatorError(
            f"The continuation {continuation!r} has no tokens of its own after {stripped[-40:]!r}; "
            "expected some text, or another separator."
        )
    return head, whole[len(head) :]


def encode_prompt(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Encode a prompt to be continued, without a second BOS."""
    bos = tokenizer.bos_token
    has_bos = bos is not None and text.startswith(bos)
    return tuple(tokenizer.encode(text, add_special_tokens=not has_bos))


def max_length(network: Any, tokenizer: Any, limit: int | None = None) -> int:
    """Return the context length in tokens: `limit`, else the configuration's, else 2048."""
    if limit is not None:
        return limit
    config = getattr(network.config, "text_config", None) or network.config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    value = getattr(tokenizer, "model_max_length", None)
    return int(value) if value is not None and value < NO_LIMIT else DEFAULT_MAX_LENGTH


def batch_limit(batch_tokens: int | None, network: Any) -> int:
    """Return tokens per batch: the option, else those chosen for the network, else a constant for its device."""
    if batch_tokens is not None and batch_tokens < 1:
        raise EvaluatorError(f"batch_tokens is {batch_tokens}; expected at least 1.")
    return batch_tokens or _CHOSEN.get(network) or (4096 if network.device.type == "cpu" else 32768)


def choose_batch_tokens(network: Any, tokens: int | None) -> None:
    """Choose the tokens per batch of tasks that set none, for one network; None for the constant of its device."""
    _CHOSEN.pop(network, None)
    if tokens is not None:
        _CHOSEN[network] = tokens


def batches(
    sizes: Sequence[int],
    limit: int,
    *,
    before: int = 0,
    places: Sequence[int] | None = None,
    most_places: int | None = None,
) -> list[list[int]]:
    """Group rows into batches of similar length: sizes in tokens -> row numbers by batch, longest first.

    limit: tokens per batch, including padding and `before` (tokens before each row). A batch is closed before more than
    an eighth of it is padding, and before its `places` (per row) exceed `most_places`; a single row may exceed any
    limit. Depends on the sizes only.
    """
    order = sorted(range(len(sizes)), key=lambda row: (-sizes[row], row))
    found: list[list[int]] = []
    longest = filled = used = 0
    for row in order:
        wanted = 0 if places is None else places[row]
        area = (len(found[-1]) + 1) * longest if found else 0
        full = area + (len(found[-1]) + 1) * before > limit if found else True
        padded = area - filled - sizes[row] > PADDING * area
        if full or padded or (most_places is not None and used + wanted > most_places):
            found.append([])
            longest, filled, used = sizes[row], 0, 0
        found[-1].append(row)
        filled, used = filled + sizes[row], used + wanted
    return found


def _encode_alone(tokenizer: Any, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    prefix = prefix_token(tokenizer)
    tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
    if prefix is None:
        raise EvaluatorError(
            "The tokenizer has neither BOS nor EOS to precede a text without context; give every example a prompt."
        )
    if tokens and tokens[0] != prefix:
        return (prefix,), tokens
    if len(tokens) > 1:
        return tokens[:1], tokens[1:]
    raise EvaluatorError(f"The text {text!r} has no tokens to score.")
