"""Greedy continuations of fixed prompts: tokenized once, batched by length, shared prefixes read once.

Prompts are padded on the left, or between the shared prefix and the rest of each prompt. The prefix's
key-value cache is repeated for every batch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from evaluators._forward import Reader, agree, attempt, numbers
from evaluators._networks import check_continues_text
from evaluators._rows import Tokens, prefixes, prepare
from evaluators._teacher import Teacher
from evaluators._tokens import batch_limit, batches, encode_prompt, max_length
from evaluators.base import EvaluatorError, LanguageModel

#: Extra tokens to look back for a stop string, which may be tokenized differently from its own encoding.
LOOK_BACK = 2
#: Tokens generated in both ways to compare them: the first from the prompt, the others step by step.
TRIED = 4


@dataclass(frozen=True)
class Generation:
    """A continuation up to its stop string.

    truncated: whether the length limit came first. finite: False if the weights yielded NaN. n_tokens: number of tokens
    before an end token; the full length of the batch if only a stop string ended it. tokens: the generated ones up to
    the end token.
    """

    text: str
    truncated: bool
    finite: bool
    n_tokens: int
    tokens: Tokens


class Generator:
    """Continues fixed prompts under any weights. Built for one tokenizer (that of `model`).

    stop: strings that end a continuation and are removed. limited_by: option that max_new_tokens comes from.
    options: further arguments of `transformers.GenerationMixin.generate`. Prompts longer than the context are truncated
    at the beginning; notes: how many are. teacher: losses of given answers to the same prompts.

    A prefix shared by several prompts of one call (few-shot examples, a chat template) is read once per call, for
    network classes in which this gives the same logits; sampling never shares prefixes. No cache outlives a call.
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
                f"{limited_by} is {max_new_tokens}, and the model's context of {context} tokens includes the prompt; "
                f"expected 1 to {context - 1}, minus the length of the prompt."
            )
        whole = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
        self.notes = _too_long([len(tokens) for tokens in whole], context, room, limited_by)
        self._prompts = [tokens[-room:] for tokens in whole]
        empty = [prompt for prompt, tokens in zip(prompts, self._prompts, strict=True) if not tokens]
        if empty:
            raise EvaluatorError(f"The prompt {empty[0]!r} has no tokens; expected some text.")
        self._max_new_tokens = max_new_tokens
        self._stop = tuple(text for text in stop if text)
        self._batch_tokens = batch_tokens
        self._options = dict(options or {})
        self._prefixes = prefixes([prepare([(p, p[-1:])], context, i) for i, p in enumerate(self._prompts)])
        self._shares: dict[type, bool] = {}
        self._pads: dict[type, bool] = {}
        ends = sorted(_end_tokens(model.network, model.tokenizer))
        own = model.tokenizer.eos_token_id
        self.teacher = Teacher(
            model.tokenizer,
            prompts,
            self._prompts,
            stop=self._stop,
            end=own if own is not None else next(iter(ends), None),
            max_new_tokens=max_new_tokens,
            batch_tokens=batch_tokens,
        )

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled, so that repeated runs differ."""
        return bool(self._options.get("do_sample", False))

    @torch.no_grad()
    def run(self, network: Any, which: Sequence[int]) -> list[Generation]:
        """Return the continuations of the prompts `which`, in that order."""
        reader = Reader(network, gathers=False)
        limit = batch_limit(self._batch_tokens, network.device)
        groups = self._by_prefix(which)
        if any(groups) and not self._may_share(reader, network):
            groups = {(): list(which)}
        planned = [
            (prefix, batch) for prefix, members in groups.items() for batch in self._batches(prefix, members, limit)
        ]
        if any(len(set(map(self._size, batch))) > 1 for _, batch in planned) and not self._may_pad(network, which):
            by_size = [[i for i in which if self._size(i) == size] for size in sorted(set(map(self._size, which)))]
            planned = [((), batch) for members in by_size for batch in self._batches((), members, limit)]
        found: dict[int, Generation] = {}
        for prefix, batch in planned:
            found.update(zip(batch, self._generate(reader, network, prefix, batch), strict=True))
        return [found[prompt] for prompt in which]

    def _batches(self, prefix: Tokens, members: Sequence[int], limit: int) -> list[list[int]]:
        sizes = [self._size(i) - len(prefix) + self._max_new_tokens for i in members]
        return [[members[k] for k in group] for group in batches(sizes, limit, before=len(prefix))]

    def _may_pad(self, network: Any, which: Sequence[int]) -> bool:
        """Return whether padding leaves the logits after a prompt unchanged; tested once per network class.

        Some networks read padding although it is masked (RWKV, RecurrentGemma), and the score of a prompt would depend
        on its batch. Broken weights give no verdict.
        """
        known = self._pads.get(type(network))
        if known is None:
            ordered = sorted(which, key=self._size)
            prompt, padding = self._prompts[ordered[0]], self._size(ordered[-1]) - self._size(ordered[0])
            alone, behind = (self._logits_after(network, prompt, count) for count in (0, padding))
            known = agree(numbers(alone), numbers(behind), network.dtype)
            if known is not None:
                self._pads[type(network)] = known
        return bool(known)

    def _logits_after(self, network: Any, prompt: Tokens, padding: int) -> torch.Tensor:
        """Return log-probabilities of the first tokens after a prompt: (1 or 2, vocabulary)."""
        pad, n_new = self._pad_token(), min(2, self._max_new_tokens)
        found = network.generate(
            input_ids=torch.tensor([(pad,) * padding + prompt], device=network.device),
            attention_mask=torch.tensor([(0,) * padding + (1,) * len(prompt)], device=network.device),
            min_new_tokens=n_new,
            max_new_tokens=n_new,
            pad_token_id=pad,
            use_cache=True,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.cat(found.logits).float().log_softmax(-1)

    def _by_prefix(self, which: Sequence[int]) -> dict[Tokens, list[int]]:
        """Group prompts by the prefix read before them; a prompt that shares its prefix with no other is read whole."""
        own = {i: self._prompts[i][: 0 if self.samples else self._prefixes[i]] for i in which}
        members = Counter(own.values())
        groups: dict[Tokens, list[int]] = {}
        for i, prefix in own.items():
            groups.setdefault(prefix if members[prefix] > 1 else (), []).append(i)
        return groups

    def _may_share(self, reader: Reader, network: Any) -> bool:
        """Return whether a prefix may be read once; tested once per network class. Broken weights give no verdict."""
        known = self._shares.get(type(network))
        if known is None:
            known = attempt(lambda: self._agrees(reader, network))
            if known is not None:
                self._shares[type(network)] = known
        return bool(known)

    def _agrees(self, reader: Reader, network: Any) -> bool | None:
        """Return whether the logits are equal either way, for the longest prompt and for the widest padding."""
        groups = [
            sorted(group, key=self._size)
            for prefix, group in self._by_prefix(range(len(self._prompts))).items()
            if prefix
        ]
        longest = max(groups, key=lambda group: self._size(group[-1]))
        widest = max(groups, key=lambda group: self._size(group[-1]) - self._size(group[0]))
        text = self._prompts[longest[-1]]
        # A sliding window counts padding too, and must cover the generated tokens.
        if not reader.can_branch(text + text[-1:] * self._max_new_tokens):
            return False
        tried = dict.fromkeys((group[-1], group[0]) for group in (longest, widest))
        found = [self._agrees_on(reader, network, pair) for pair in tried]
        return None if None in found else all(found)

    def _agrees_on(self, reader: Reader, network: Any, members: Sequence[int]) -> bool | None:
        """Compare the two ways step by step, each row as long as both generated the same tokens.

        Logits within the tolerance may rank two nearly equal tokens differently.
        """
        plain, short = _ScoreKeeper(), _ScoreKeeper()
        prefix = self._prompts[members[0]][: self._prefixes[members[0]]]
        n_new = min(TRIED, self._max_new_tokens)
        expected = self._write(reader, network, (), members, n_new, plain)
        written = self._write(reader, network, prefix, members, n_new, short)
        same = torch.ones(len(members), dtype=torch.bool, device=network.device)
        for step, (a, b) in enumerate(zip(plain.scores, short.scores, strict=False)):
            known = same[:, None] & ~(a.isneginf() & b.isneginf())
            verdict = agree(numbers(a[known]), numbers(b[known]), network.dtype)
            if not verdict:
                return verdict
            same &= expected[:, step] == written[:, step]
        return True

    def _size(self, prompt: int) -> int:
        return len(self._prompts[prompt])

    def _generate(self, reader: Reader, network: Any, prefix: Tokens, members: Sequence[int]) -> list[Generation]:
        watch = _NumberWatch(torch.zeros(len(members), dtype=torch.bool, device=network.device))
        written = self._write(reader, network, prefix, members, self._max_new_tokens, watch)
        ends = _end_tokens(network, self._tokenizer)
        broken = watch.broken.tolist()
        return [self._finish(row, ends, not nan) for row, nan in zip(written.tolist(), broken, strict=True)]

    def _write(
        self, reader: Reader, network: Any, prefix: Tokens, members: Sequence[int], n_new: int, watch: LogitsProcessor
    ) -> torch.Tensor:
        """Return the generated tokens, (n_rows, n_steps). prefix: common beginning of the prompts, read once."""
        before = len(prefix)
        rests = [self._prompts[i][before:] for i in members]
        own = max(map(len, rests))
        pad = self._pad_token()
        tokens = [(*prefix, *(pad,) * (own - len(rest)), *rest) for rest in rests]
        mask = [(*(1,) * before, *(0,) * (own - len(rest)), *(1,) * len(rest)) for rest in rests]
        width = before + own
        stops = [_StopStrings(self._tokenizer, self._stop, width)] if self._stop else []
        # `generate` reads what the cache lacks; it derives positions from the mask, so padding in the middle has none.
        cache = {"past_key_values": reader.behind(prefix, len(rests))} if prefix else {}
        written: torch.Tensor = network.generate(
            input_ids=torch.tensor(tokens, device=network.device),
            attention_mask=torch.tensor(mask, device=network.device),
            max_new_tokens=n_new,
            pad_token_id=pad,
            use_cache=True,
            stopping_criteria=StoppingCriteriaList(stops),
            logits_processor=LogitsProcessorList([watch]),
            **cache,
            **{"do_sample": False, **self._options},
        )
        return written[:, width:]

    def _finish(self, tokens: list[int], ends: frozenset[int], finite: bool) -> Generation:
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        text = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        stopped = end is not None or any(stop in text for stop in self._stop)
        for stop in self._stop:
            text = text.split(stop)[0]
        upto = None if end is None else end + 1
        return Generation(text, not stopped, finite, len(tokens[:end]), tuple(tokens[:upto]))

    def _pad_token(self) -> int:
        """Return any token: padding is masked, and tokens after the end are dropped."""
        candidates = (
            self._tokenizer.pad_token_id,
            self._tokenizer.unk_token_id,
            self._tokenizer.eos_token_id,
        )
        return next((int(token) for token in candidates if token is not None), 0)


class _StopStrings(StoppingCriteria):  # type: ignore[misc] # transformers has no types
    """Ends each row as soon as its continuation contains one of the strings."""

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
    """Records the rows whose logits had a NaN: their maximum would be an arbitrary token."""

    def __init__(self, broken: torch.Tensor) -> None:
        self.broken = broken

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.broken |= scores.isnan().reshape(len(self.broken), -1).any(dim=1)  # beams of a prompt are adjacent
        return scores


class _ScoreKeeper(LogitsProcessor):  # type: ignore[misc] # transformers has no types
    """Keeps the log-probabilities of every step, each (n_rows, vocabulary)."""

    def __init__(self) -> None:
        self.scores: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.scores.append(scores.float().log_softmax(-1))
        return scores


def _too_long(sizes: Sequence[int], context: int, room: int, limited_by: str) -> tuple[str, ...]:
    """Return a warning about prompts longer than the room left for them."""
    count = sum(size > room for size in sizes)
    if not count:
        return ()
    note = (
        f"{count} of {len(sizes)} prompts are truncated at the beginning: the longest has {max(sizes)} tokens, and of "
        f"the {context} that the model reads, {limited_by}: {context - room} leaves {room}; reduce it"
    )
    return (note,)


def _end_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None)
