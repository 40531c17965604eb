"""Continuations of fixed prompts: tokenized once, decoded with continuous batching, shared prefixes read once.

A network with an engine (such as vLLM) leaves decoding to it. For the others, `generate` of transformers writes what
continuous batching cannot, in batches of similar length with padding on the left: samples, beams, and texts of networks
whose logits differ, e.g. because their caches hold states or windows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from evaluators._continuous import Row, Rules, Writer
from evaluators._endings import Endings, Generation, NumberWatch, StopStrings, pad_token
from evaluators._engines import Instructions, TextEngine, check_settings, engine_of, sampling_of
from evaluators._forward import Reader, agree, attempt, numbers
from evaluators._generation_settings import effective, end_tokens, is_greedy
from evaluators._networks import check_continues_text
from evaluators._predictions import Predictions
from evaluators._rows import Tokens, prefixes, prepare
from evaluators._teacher import Teacher
from evaluators._tokens import batch_limit, batches, encode_prompt, max_length
from evaluators.base import EvaluatorError, LanguageModel

#: Tokens generated in both ways to compare them: the first from the prompt, the others step by step.
TRIED = 4


class Generator:
    """Continues fixed prompts under any weights. Built for one tokenizer (that of `model`).

    stop: strings that end a continuation and are removed. limited_by: option that max_new_tokens comes from.
    options: further arguments of `transformers.GenerationMixin.generate`. Prompts longer than the context are truncated
    at the beginning; notes: how many are. teacher: losses of given answers to the same prompts.

    With continuous batching, a prefix shared by several prompts of one call (few-shot examples, a chat template) is
    read once per call. No cache outlives a call.
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
        context = self._context = max_length(model.network, model.tokenizer, length)
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
        self._endings = Endings(model.tokenizer, stop)
        self._batch_tokens = batch_tokens
        self._options = dict(options or {})
        engine = engine_of(model.network)
        if engine is not None:
            check_settings(engine, model.network, self._options)
            engine.expect(max(map(len, self._prompts), default=0) + max_new_tokens)
        self._prefixes = prefixes([prepare([(p, p[-1:])], context, i) for i, p in enumerate(self._prompts)])
        self._streams: dict[type, bool] = {}
        self._pads: dict[type, bool] = {}
        ends = sorted(end_tokens(model.network, model.tokenizer))
        own = model.tokenizer.eos_token_id
        self.teacher = Teacher(
            model.tokenizer,
            prompts,
            self._prompts,
            stop=self._endings.stop,
            end=own if own is not None else next(iter(ends), None),
            max_new_tokens=max_new_tokens,
            batch_tokens=batch_tokens,
        )

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled, so that repeated runs differ."""
        return bool(self._options.get("do_sample", False))

    def predictions(self, which: Sequence[int], written: Sequence[Tokens]) -> Predictions:
        """Return the predictions of the tokens of given continuations, one for each of the prompts `which`."""
        pairs = [[(self._prompts[prompt], tokens)] for prompt, tokens in zip(which, written, strict=True)]
        return Predictions(pairs, self._context, self._batch_tokens, self.teacher.may_gather)

    @torch.no_grad()
    def run(self, network: Any, which: Sequence[int]) -> list[Generation]:
        """Return the continuations of the prompts `which`, in that order."""
        engine = engine_of(network)
        if engine is not None:
            return self._by_engine(engine, network, which)
        if len(which) > 1 and self._may_stream(network, which):
            return self._stream(network, which)
        limit = batch_limit(self._batch_tokens, network)
        planned = self._batches(which, limit)
        if any(len(set(map(self._size, batch))) > 1 for batch in planned) and not self._may_pad(network, which):
            by_size = [[i for i in which if self._size(i) == size] for size in sorted(set(map(self._size, which)))]
            planned = [batch for members in by_size for batch in self._batches(members, limit)]
        found: dict[int, Generation] = {}
        for batch in planned:
            found.update(zip(batch, self._generate(network, batch), strict=True))
        return [found[prompt] for prompt in which]

    def _by_engine(self, engine: TextEngine, network: Any, which: Sequence[int]) -> list[Generation]:
        """Return the continuations of the prompts `which`, written by the network's engine."""
        ends = end_tokens(network, self._tokenizer)
        penalty = effective(network, self._options).repetition_penalty or 1.0
        sampling = sampling_of(network, self._options, which)
        instructions = Instructions(self._max_new_tokens, ends, self._endings.stop, penalty, self._tokenizer, sampling)
        written = engine.write([self._prompts[i] for i in which], instructions)
        return [self._endings.finish(self._endings.up_to_stop(each.tokens), ends, each.finite) for each in written]

    def _stream(self, network: Any, which: Sequence[int]) -> list[Generation]:
        """Return the continuations of the prompts `which`, with continuous batching."""
        rows = self._write(network, self._by_prefix(which), self._max_new_tokens)
        ends = end_tokens(network, self._tokenizer)
        found = {row.number: self._endings.finish(row.written, ends, row.finite) for row in rows}
        return [found[prompt] for prompt in which]

    def _write(
        self, network: Any, groups: Mapping[Tokens, Sequence[int]], n_new: int, watch: "_ScoreKeeper | None" = None
    ) -> list[Row]:
        """Return the rows of prompts by prefix, the groups with the longest prompts first."""
        reader = Reader(network, gathers=self.teacher.may_gather(network))
        ends = end_tokens(network, self._tokenizer)
        rules = Rules(n_new, ends, self._endings.stopped, effective(network, self._options).repetition_penalty or 1.0)
        limit = batch_limit(self._batch_tokens, network)
        ordered = [(prefix, sorted(group, key=lambda i: (-self._size(i), i))) for prefix, group in groups.items()]
        ordered.sort(key=lambda each: -self._size(each[1][0]))
        prompts = [(i, prefix, self._prompts[i][len(prefix) :]) for prefix, group in ordered for i in group]
        return Writer(reader, network, rules, limit, None if watch is None else watch.see).write(prompts)

    def _may_stream(self, network: Any, which: Sequence[int]) -> bool:
        """Return whether continuous batching gives the logits of `generate`; tested once per network class.

        Broken weights give no verdict.
        """
        known = self._streams.get(type(network))
        if known is None:
            if not is_greedy(network, self._options):
                return False
            known = attempt(lambda: self._agrees(network, which))
            if known is not None:
                self._streams[type(network)] = known
        return bool(known)

    def _agrees(self, network: Any, which: Sequence[int]) -> bool | None:
        """Return whether the logits are equal either way: for the longest and shortest prompt of every kind.

        Each row is compared as long as both ways generated the same tokens, since logits within the tolerance may rank
        two nearly equal tokens differently.
        """
        longest = self._prompts[max(which, key=self._size)]
        # A sliding window must cover the generated tokens.
        if not Reader(network, gathers=False).can_branch(longest + longest[-1:] * self._max_new_tokens):
            return False
        n_new = min(TRIED, self._max_new_tokens)
        tried = {}
        for prefix, members in self._by_prefix(which).items():
            ordered = sorted(members, key=self._size)
            tried[prefix] = tuple(dict.fromkeys((ordered[-1], ordered[0])))
        short = _ScoreKeeper()
        written = {row.number: row.written for row in self._write(network, tried, n_new, short)}
        for prompt in written:
            plain = _ScoreKeeper()
            expected = self._write_by_generate(network, [prompt], n_new, plain)[0].tolist()
            for step, scores in enumerate(short.scores[prompt]):
                a, b = plain.steps[step][0], scores
                known = ~(a.isneginf() & b.isneginf())
                verdict = agree(numbers(a[known]), numbers(b[known]), network.dtype)
                if not verdict:
                    return verdict
                if written[prompt][step] != expected[step]:
                    break
        return True

    def _batches(self, members: Sequence[int], limit: int) -> list[list[int]]:
        sizes = [self._size(i) + self._max_new_tokens for i in members]
        return [[members[k] for k in group] for group in batches(sizes, limit)]

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
        pad, n_new = pad_token(self._tokenizer), min(2, self._max_new_tokens)
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
        own = {i: self._prompts[i][: self._prefixes[i]] for i in which}
        members = Counter(own.values())
        groups: dict[Tokens, list[int]] = {}
        for i, prefix in own.items():
            groups.setdefault(prefix if members[prefix] > 1 else (), []).append(i)
        return groups

    def _size(self, prompt: int) -> int:
        return len(self._prompts[prompt])

    def _generate(self, network: Any, members: Sequence[int]) -> list[Generation]:
        watch = NumberWatch(len(members), network.device)
        written = self._write_by_generate(network, members, self._max_new_tokens, watch)
        ends = end_tokens(network, self._tokenizer)
        broken = watch.broken.tolist()
        return [self._endings.finish(row, ends, not nan) for row, nan in zip(written.tolist(), broken, strict=True)]

    def _write_by_generate(
        self, network: Any, members: Sequence[int], n_new: int, watch: LogitsProcessor
    ) -> torch.Tensor:
        """Return the generated tokens, (n_rows, n_steps)."""
        width = max(map(self._size, members))
        pad = pad_token(self._tokenizer)
        padding = [width - self._size(i) for i in members]
        tokens = [((pad,) * n + self._prompts[i]) for i, n in zip(members, padding, strict=True)]
        mask = [((0,) * n + (1,) * (width - n)) for n in padding]
        stops = [StopStrings(self._endings, width)] if self._endings.stop else []
        written: torch.Tensor = network.generate(
            input_ids=torch.tensor(tokens, device=network.device),
            attention_mask=torch.tensor(mask, device=network.device),
            max_new_tokens=n_new,
            pad_token_id=pad,
            use_cache=True,
            stopping_criteria=StoppingCriteriaList(stops),
            logits_processor=LogitsProcessorList([watch]),
            **{"do_sample": False, **self._options},
        )
        return written[:, width:]


class _ScoreKeeper(LogitsProcessor):  # type: ignore[misc] # transformers has no types
    """Keeps log-probabilities: steps: of `generate`, each (n_rows, vocabulary); scores: of each prompt's steps."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.scores: dict[int, list[torch.Tensor]] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.steps.append(scores.float().log_softmax(-1))
        return scores

    def see(self, rows: Sequence[Row], scores: torch.Tensor) -> None:
        """Keep the log-probabilities of the rows that have not ended."""
        for row, each in zip(rows, scores, strict=True):
            if not row.ended:
                self.scores.setdefault(row.number, []).append(each)


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
