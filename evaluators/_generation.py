"""Greedy continuations of fixed prompts: tokenised once, padded on the left, batched by length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from evaluators._networks import check_continues_text
from evaluators._tokens import batch_limit, batches, encode_prompt, max_length
from evaluators.base import EvaluatorError, LanguageModel

#: A stop string may arrive in other tokens than its own encoding: look so many tokens further back.
LOOK_BACK = 2


@dataclass(frozen=True)
class Generation:
    """A continuation up to its stop string.

    truncated: the length limit came first. finite: False where the weights yielded no numbers. n_tokens: how many were
    written before an end token; all of the batch's length where only a stop string ended it.
    """

    text: str
    truncated: bool
    finite: bool
    n_tokens: int


class Generator:
    """Continues fixed prompts under any weights. Built for one tokenizer (that of `model`).

    stop: strings that end a continuation and are cut off. limited_by: the option that max_new_tokens comes from.
    options: further arguments of `transformers.GenerationMixin.generate`. Prompts longer than the model lose their
    beginning; notes: how many do.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[str],
        max_new_tokens: int,
        stop: Sequence[str],
        *,
        length: int | None = None,
        limited_by: str = "max_new_tokens",
        batch_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_continues_text(model.network)
        self._tokenizer = model.tokenizer
        context = max_length(model.network, model.tokenizer, length)
        room = context - max_new_tokens
        if max_new_tokens < 1 or room < 1:
            raise EvaluatorError(
                f"{limited_by} is {max_new_tokens}, and the model reads {context} tokens at once, those of the prompt "
                f"among them; expected 1 to {context - 1}, less what a prompt needs."
            )
        whole = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
        self.notes = _too_long([len(tokens) for tokens in whole], context, room, limited_by)
        self._prompts = [tokens[-room:] for tokens in whole]
        empty = [prompt for prompt, tokens in zip(prompts, self._prompts, strict=True) if not tokens]
        if empty:
            raise EvaluatorError(f"The prompt {empty[0]!r} has no tokens; give it text.")
        self._max_new_tokens = max_new_tokens
        self._stop = tuple(text for text in stop if text)
        self._batch_tokens = batch_tokens
        self._options = dict(options or {})

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, so that repeats differ."""
        return bool(self._options.get("do_sample", False))

    @torch.no_grad()
    def run(self, network: Any, which: Sequence[int]) -> list[Generation]:
        """Continuations of the prompts `which`, in that order."""
        sizes = [len(self._prompts[i]) + self._max_new_tokens for i in which]
        found: dict[int, Generation] = {}
        for group in batches(sizes, batch_limit(self._batch_tokens, network.device)):
            members = [which[k] for k in group]
            found.update(zip(members, self._generate(network, members), strict=True))
        return [found[prompt] for prompt in which]

    def _generate(self, network: Any, members: Sequence[int]) -> list[Generation]:
        prompts = [self._prompts[i] for i in members]
        width = max(map(len, prompts))
        pad = self._pad_token()
        tokens = torch.tensor([(pad,) * (width - len(p)) + p for p in prompts], device=network.device)
        mask = torch.tensor([(0,) * (width - len(p)) + (1,) * len(p) for p in prompts], device=network.device)
        stops = [_StopStrings(self._tokenizer, self._stop, width)] if self._stop else []
        watch = _NumberWatch(torch.zeros(len(prompts), dtype=torch.bool, device=network.device))
        written = network.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=self._max_new_tokens,
            pad_token_id=pad,
            use_cache=True,
            stopping_criteria=StoppingCriteriaList(stops),
            logits_processor=LogitsProcessorList([watch]),
            **{"do_sample": False, **self._options},
        )
        ends = _end_tokens(network, self._tokenizer)
        broken = watch.broken.tolist()
        rows = written[:, width:].tolist()
        return [self._finish(row, ends, not nan) for row, nan in zip(rows, broken, strict=True)]

    def _finish(self, tokens: list[int], ends: frozenset[int], finite: bool) -> Generation:
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        text = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        stopped = end is not None or any(stop in text for stop in self._stop)
        for stop in self._stop:
            text = text.split(stop)[0]
        return Generation(text, not stopped, finite, len(tokens[:end]))

    def _pad_token(self) -> int:
        """Any token: what it covers is masked, and what follows an end is dropped."""
        candidates = (
            self._tokenizer.pad_token_id,
            self._tokenizer.unk_token_id,
            self._tokenizer.eos_token_id,
        )
        return next((int(token) for token in candidates if token is not None), 0)


class _StopStrings(StoppingCriteria):  # type: ignore[misc] # transformers has no types
    """Ends each row as soon as one of the strings stands in what it has written."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], width: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._width = width
        self._window = max(len(tokenizer.encode(s, add_special_tokens=False)) for s in stop) + LOOK_BACK

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002 - given by generate
        recent = input_ids[:, max(self._width, input_ids.shape[1] - self._window) :]
        texts = self._tokenizer.batch_decode(recent)
        return torch.tensor([any(s in text for s in self._stop) for text in texts], device=input_ids.device)


class _NumberWatch(LogitsProcessor):  # type: ignore[misc] # transformers has no types
    """Remembers the rows whose logits held a NaN, of which a maximum would be an arbitrary token."""

    def __init__(self, broken: torch.Tensor) -> None:
        self.broken = broken

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.broken |= scores.isnan().any(dim=1)
        return scores


def _too_long(sizes: Sequence[int], context: int, room: int, limited_by: str) -> tuple[str, ...]:
    """What to say of prompts with so many tokens where there is room for fewer."""
    count = sum(size > room for size in sizes)
    if not count:
        return ()
    note = (
        f"{count} of {len(sizes)} prompts lose their beginning: the longest has {max(sizes)} tokens, and of the "
        f"{context} that the model reads, {limited_by}: {context - room} leaves {room}; make it smaller"
    )
    return (note,)


def _end_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    configured = network.generation_config.eos_token_id
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None)
