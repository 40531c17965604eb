"""Losses of given answers to fixed prompts, teacher-forced.

An answer ends as the model's own would: after a stop string, or with its end token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluators._forward import GatherTest, Reader
from evaluators._likelihood import differentiable
from evaluators._losses import mixed
from evaluators._rows import Tokens, prepare
from evaluators._tokens import encode_prompt
from evaluators.base import EvaluatorError

#: Tokens of the prompt that are decoded with a continuation, so that white space between them survives.
SEAM = 1


@dataclass(frozen=True)
class FileAnswer:
    """An answer from a file, as the model should generate it.

    lead: white space between prompt and answer. bare: whether the metric accepts the answer only without it.
    follows: text after an answer among the solved examples of the prompt; "" without any. chat: whether an end token
    ends it, not a stop string.
    """

    text: str
    lead: str = ""
    bare: bool = False
    follows: str = ""
    chat: bool = False

    @property
    def generated(self) -> str:
        """The text that the metric accepts."""
        return self.text if self.bare else self.lead + self.text


class Teacher:
    """Losses of answers to fixed prompts.

    prompts, tokens: of every prompt; the tokens are truncated to what the model reads. end: the end token, if there is
    one. Tokens of an answer beyond max_new_tokens are never generated and not scored.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompts: Sequence[str],
        tokens: Sequence[Tokens],
        *,
        stop: Sequence[str],
        end: int | None,
        max_new_tokens: int,
        batch_tokens: int | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompts, self._tokens = prompts, tokens
        self._stop, self._end = tuple(stop), end
        self._max_new_tokens, self._batch_tokens = max_new_tokens, batch_tokens
        self._known: dict[int, tuple[str | FileAnswer, Tokens]] = {}
        #: Whether the head of a network may read only the scored positions.
        self.may_gather = GatherTest(max(tokens, key=len, default=()))

    def losses(self, network: Any, which: Sequence[int], answers: Sequence[str | FileAnswer | None]) -> Tensor:
        """Return the losses of the answers to the prompts `which`, differentiable, (n_prompts,).

        A text is a verbatim continuation. Raises EvaluatorError for an answer without tokens.
        """
        wanted = [self.answer_tokens(prompt, answer) for prompt, answer in zip(which, answers, strict=True)]
        context = self._max_new_tokens + max(len(self._tokens[prompt]) for prompt in which)
        examples = [
            prepare([(self._tokens[prompt], found)], context, number)
            for number, (prompt, found) in enumerate(zip(which, wanted, strict=True))
        ]
        reader = Reader(network, gathers=self.may_gather(network))
        sums = torch.cat(differentiable(reader, network, examples, branches=False, batch_tokens=self._batch_tokens))
        return mixed(sums, torch.tensor([len(found) for found in wanted], dtype=sums.dtype, device=sums.device))

    def answer_tokens(self, prompt: int, answer: str | FileAnswer | None) -> Tokens:
        """Return the tokens of an answer with what ends it. Raises EvaluatorError if there are none."""
        known = self._known.get(prompt)
        if known is None or known[0] != answer:
            answer = "" if answer is None else answer
            found = self._after(prompt, answer) if isinstance(answer, str) else self._of_file(prompt, answer)
            if not found:
                raise EvaluatorError(
                    f"An answer to the prompt {self._prompts[prompt][-40:]!r} has no tokens: it is empty, and neither "
                    "a stop string nor an end token ends it. Set `stop`, or remove the example."
                )
            known = self._known[prompt] = answer, found[: self._max_new_tokens]
        return known[1]

    def verbatim(self, prompt: int, generated: Tokens) -> str | None:
        """Return generated tokens as text, up to the token that ended them; None if the text is no reference.

        A text is none if it is empty or holds part of a character.
        """
        head = self._tokens[prompt][-SEAM:]
        before, whole = self._text(head), self._text((*head, *self._up_to_stop(generated)))
        text = whole[len(before) :] if whole.startswith(before) else self._text(self._up_to_stop(generated))
        return text if text and "\ufffd" not in text else None

    def _of_file(self, prompt: int, answer: FileAnswer) -> Tokens:
        lead = answer.lead
        if answer.bare and self._text(self._after(prompt, lead + answer.text)) != answer.text:
            lead = ""  # otherwise the tokenizer drops the white space itself, as SentencePiece does
        ending = self._ending(answer)
        if ending is None:
            return (*self._after(prompt, lead + answer.text), *(() if self._end is None else (self._end,)))
        return self._up_to_stop(self._after(prompt, lead + answer.text + ending))

    def _ending(self, answer: FileAnswer) -> str | None:
        """Return the text after an answer, with a stop string in it; None if the end token ends it."""
        if (answer.chat and self._end is not None) or not self._stop:
            return None
        if any(stop in answer.follows for stop in self._stop):
            return answer.follows
        return answer.follows + self._stop[0]

    def _after(self, prompt: int, text: str) -> Tokens:
        """Return the tokens of a text after the prompt's, which stay as they are."""
        before = encode_prompt(self._tokenizer, self._prompts[prompt])
        whole = encode_prompt(self._tokenizer, self._prompts[prompt] + text)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _up_to_stop(self, tokens: Tokens) -> Tokens:
        """Cut after the first token at which the text contains a stop string."""
        low, high = 1, len(tokens)
        if not self._stopped(tokens):
            return tokens
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._stopped(tokens[:middle]) else (middle + 1, high)
        return tokens[:low]

    def _stopped(self, tokens: Tokens) -> bool:
        text = self._text(tokens)
        return any(stop in text for stop in self._stop)

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
