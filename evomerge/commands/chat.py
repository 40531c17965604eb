"""`evomerge chat`: talk to merges of a run, which take turns in one resident network."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TextStreamer

from evaluators._presentation import rendered
from evaluators._tokens import max_length
from evomerge.bench import Bench, BenchSpec
from evomerge.commands.models_of_run import WINNER, model_named
from evomerge.errors import EvomergeError
from evomerge.results.scored import ScoredModel
from evomerge.run import Run
from evomerge.study import StudyError
from evomerge.text.printable import printable

#: Commands of a conversation, with what they do.
COMMANDS = {
    "/model NAME": "continue with another model: winner, a trial's number, or a label such as parent:math",
    "/beside NAME": "let a second model answer too; /beside alone ends that",
    "/models": "list the best models and the parents",
    "/clear": "forget what was said",
    "/quit": "end",
}
#: Models that `/models` lists, beside the parents.
LISTED = 5


class ChatError(EvomergeError):
    """Models that cannot talk."""


@dataclass
class Partner:
    """A model of a conversation, and what was said so far: messages as (role, content)."""

    model: ScoredModel
    said: list[tuple[str, str]] = field(default_factory=list)


class Conversation:
    """A conversation with one model of a run, or with two that answer the same messages.

    Args:
        run: The run.
        model: Name of the model, see `model_named`.
        most: Maximum number of tokens of an answer.
        temperature: 0 for the likeliest token each time.
        write: Takes the pieces of answers as they come.

    Raises:
        StudyError: There is no such model.
        ChatError: The network does not write text, or has no tokenizer.
        InputChanged: The models are no longer those that the study began with.
    """

    def __init__(
        self, run: Run, model: str, *, most: int = 256, temperature: float = 0.0, write: Callable[[str], None]
    ) -> None:
        self._run, self._most, self._temperature, self._write = run, most, temperature, write
        self.partners = [Partner(model_named(run, model))]
        config = run.config
        self._bench = Bench(
            BenchSpec(run.searched, run.searched_space, {}, device=config.device, code=config.code_folders,
                      threads=1 if config.threads == "auto" else config.threads, methods=config.recipes())
        )  # fmt: skip
        self._here: str | None = None
        resident = self._model = self._bench.model
        if not resident.has_network or not resident.network.can_generate() or resident.tokenizer is None:
            raise ChatError(f"The models of {run.folder} do not write text: chat is for language models.")

    def hear(self, line: str) -> bool:
        """Answer a line, or follow it if it begins with `/`. Return False at the end. Raises as the class does."""
        text = line.strip()
        if text.startswith("/"):
            return self._follow(*text.split(maxsplit=1))
        for partner in self.partners if text else ():
            if len(self.partners) > 1:
                self._write(f"{partner.model.name}:\n")
            self.answer(partner, text)
        return True

    def answer(self, partner: Partner, text: str) -> str:
        """Let one model answer a message, piece by piece; Ctrl-C ends the answer. Return it.

        Raises ChatError for a conversation that is longer than the model reads.
        """
        if self._here != partner.model.label:
            self._model, self._here = self._bench.become(partner.model.trial), partner.model.label
        network, tokenizer = self._model.network, self._model.tokenizer
        partner.said.append(("user", text))
        prompt, chat = text, getattr(tokenizer, "chat_template", None) is not None
        if chat:
            prompt = rendered(tokenizer, [{"role": role, "content": content} for role, content in partner.said])
        read = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(network.device)
        context = max_length(network, tokenizer)
        room = context - read["input_ids"].shape[1]
        if room < 1:
            partner.said.pop()
            raise ChatError(
                f"{partner.model.name} reads {context} tokens, and this is longer: /clear forgets the rest."
            )
        streamer = _Pieces(tokenizer, self._write)
        options: dict[str, Any] = {"do_sample": False}
        if self._temperature > 0:
            options = {"do_sample": True, "temperature": self._temperature}
        if tokenizer.pad_token_id is None:
            options["pad_token_id"] = tokenizer.eos_token_id
        inputs = {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
        try:
            with torch.inference_mode():
                network.generate(**inputs, max_new_tokens=min(self._most, room), streamer=streamer, **options)
        except KeyboardInterrupt:
            self._write(" ...\n")
        partner.said.append(("assistant", streamer.text))
        return streamer.text

    def _follow(self, command: str, name: str = "") -> bool:
        if command in ("/quit", "/q", "/exit"):
            return False
        if command == "/clear":
            for partner in self.partners:
                partner.said.clear()
        elif command == "/models":
            self._write("".join(f"{line}\n" for line in self._models()))
        elif command == "/model" and name:
            self.partners[0] = Partner(model_named(self._run, name))
        elif command == "/beside" and name:
            self.partners[1:] = [] if name == "alone" else [Partner(model_named(self._run, name))]
        else:
            self._write("".join(f"{known:14s} {meaning}\n" for known, meaning in COMMANDS.items()))
            return True
        if command in ("/model", "/beside"):
            self._write(f"talking to {' beside '.join(partner.model.name for partner in self.partners)}\n")
        return True

    def _models(self) -> Sequence[str]:
        points = sorted(self._run.scored().points, key=lambda point: -point.score.mean)
        listed = [*[point for point in points if not point.is_parent][:LISTED], *(p for p in points if p.is_parent)]
        winner = self._run.selected
        return [
            f"{point.label:24s} {point.score.mean:.4g} on the search split{f', the {WINNER}' * (point.label == winner)}"
            for point in listed
        ]


def talk(
    run: Run,
    names: Sequence[str | None],
    next_line: Callable[[], str],
    write: Callable[[str], None],
    *,
    most: int,
    temperature: float,
) -> None:
    """Hold a conversation until its end. Raises as `Conversation` does.

    names: of one or two models, None for the best. next_line: asks for a line; raises EOFError at the end.
    """
    conversation = _begun(run, names, write, most, temperature)
    write(f"talking to {' beside '.join(each.model.name for each in conversation.partners)}; /help lists commands\n")
    with suppress(EOFError, KeyboardInterrupt):
        more = True
        while more:
            try:
                more = conversation.hear(next_line())
            except (ChatError, StudyError) as error:
                write(f"{error}\n")


def answers(
    run: Run, names: Sequence[str | None], prompt: str, *, most: int, temperature: float
) -> tuple[dict[str, Any], list[str]]:
    """Return the answers of one or two models to a message, as data and as lines. Raises as `Conversation` does."""
    conversation = _begun(run, names, lambda _: None, most, temperature)
    found = {each.model.label: conversation.answer(each, prompt) for each in conversation.partners}
    lines = [line for label, text in found.items() for line in ([f"{label}:"] if len(found) > 1 else []) + [text]]
    return {"prompt": prompt, "answers": found}, lines


def _begun(
    run: Run, names: Sequence[str | None], write: Callable[[str], None], most: int, temperature: float
) -> Conversation:
    best = run.best
    if best is None:
        raise ChatError(f"No merge of {run.folder} has scores yet.")
    first, *others = [best.label if name is None else name for name in names]
    conversation = Conversation(run, first, most=most, temperature=temperature, write=write)
    conversation.partners += [Partner(model_named(run, name)) for name in others]
    return conversation


class _Pieces(TextStreamer):  # type: ignore[misc] # untyped
    """Hands over each piece of an answer as it is written, and keeps them."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._hand_over, self.text = write, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take the next piece; the last one ends the line."""
        self.text += text
        self._hand_over(printable(text) + ("\n" if stream_end else ""))
