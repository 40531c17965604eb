"""Presentation of prompts: after a system message, after solved examples (few-shot), as a chat."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from evaluators._bounded import excess
from evaluators.base import EvaluatorError, content_ids

#: Delimiter of solved examples, as in lm-eval.
DELIMITER = "\n\n"


@dataclass(frozen=True)
class Presentation:
    """The text around a prompt.

    system: a message before everything else. shots: solved examples, prompt and answer. separator: between prompt and
    answer; unused in a chat, which ends the prompt itself. chat: whether to use the tokenizer's chat template.
    """

    system: str | None = None
    shots: tuple[tuple[str, str], ...] = ()
    separator: str = " "
    chat: bool = False

    @property
    def before_answer(self) -> str:
        """Separator between a presented prompt and its answer."""
        return "" if self.chat else self.separator

    def of_all(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        """Return the text before the answer of each prompt. Raises EvaluatorError for a chat without a template."""
        if self.chat and not getattr(tokenizer, "chat_template", None):
            raise EvaluatorError("apply_chat_template is set, but the model's tokenizer has no chat template.")
        if self.chat:
            self._check_ends(prompts, tokenizer)
        return [self._of(prompt, tokenizer) for prompt in prompts]

    def _check_ends(self, prompts: Sequence[str], tokenizer: Any) -> None:
        """Raise EvaluatorError for a chat template that does not terminate, or whose output is endless."""

        def work(hand: Callable[[str], None]) -> None:
            hand("")
            for prompt in prompts:
                hand(self._of(prompt, tokenizer))

        over = excess(work, len(prompts))
        if over is not None:
            raise EvaluatorError(f"The tokenizer's chat template {over.why} for one prompt: use an intact tokenizer.")

    def _of(self, prompt: str, tokenizer: Any) -> str:
        if not self.chat:
            solved = [f"{question}{self.separator}{answer}" for question, answer in self.shots]
            return DELIMITER.join([*([self.system] if self.system else []), *solved, prompt])
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.shots:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return rendered(tokenizer, [*messages, {"role": "user", "content": prompt}])


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer_follows: bool = True) -> str:
    """Render a chat as text; for a template that rejects the system role, without it, as in lm-eval."""
    options = {
        "tokenize": False,
        "add_generation_prompt": answer_follows,
        "continue_final_message": not answer_follows,
    }
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except jinja2.TemplateError:
        rest = [message for message in messages if message["role"] != "system"]
        return str(tokenizer.apply_chat_template(rest, **options))


def draw_shots(contents: Sequence[str], count: int) -> tuple[list[int], list[int]]:
    """Select the examples to show as solved ones, and those left to be scored.

    They are selected by a hash of their content, so that every split shows the same ones and scores none of them;
    duplicates of a shown example are not scored either. Raises EvaluatorError if nothing is left.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise EvaluatorError(f"num_fewshot is {count!r}; expected a number of examples, 0 or more.")
    keys = [name.split("#")[0] for name in content_ids(contents)]
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    if count and count >= len(first):
        raise EvaluatorError(
            f"num_fewshot is {count}, and there are {len(first)} different examples, of which those shown are not "
            "scored: use fewer, or provide more examples."
        )
    drawn = sorted(first, key=lambda key: hashlib.sha256(f"few-shot:{key}".encode()).digest())[:count]
    shown = set(drawn)
    return [first[key] for key in drawn], [place for place, key in enumerate(keys) if key not in shown]
