"""Engines that continue prompts in place of a transformers network, with the same weights in a form of their own.

A worker registers an engine for its network; whatever generates from that network then asks the engine. Evaluators stay
unaware of engines, and a network without one writes by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from evaluators._generation_settings import effective, without_equal
from evaluators._rows import Tokens
from evaluators.base import EvaluatorError


@dataclass(frozen=True)
class Instructions:
    """How to continue prompts greedily.

    n_new: length limit in tokens. ends: end tokens. stop: strings that end a continuation; what an engine writes after
    them is cut. penalty: factor by which the logits of earlier tokens are reduced, as in transformers; 1 for none.
    tokenizer: that of the prompts.
    """

    n_new: int
    ends: frozenset[int]
    stop: tuple[str, ...]
    penalty: float
    tokenizer: Any


@dataclass(frozen=True)
class Written:
    """A continuation: its tokens with the end token, and whether no probability on the way was NaN."""

    tokens: list[int]
    finite: bool


class TextEngine(Protocol):
    """Continues prompts with a network's current weights."""

    @property
    def name(self) -> str:
        """The engine's name in a search file."""

    def expect(self, n_tokens: int) -> None:
        """Prepare for continued prompts of up to so many tokens; called for every set of prompts."""

    def write(self, prompts: Sequence[Tokens], instructions: Instructions) -> list[Written]:
        """Return the continuations, in the order of the prompts."""


#: By network. An attribute of the network would be lost when its state is restored before each scoring.
_ENGINES: WeakKeyDictionary[Any, TextEngine] = WeakKeyDictionary()


def write_with(network: Any, engine: TextEngine) -> None:
    """Let an engine generate whatever is generated from a network from now on."""
    _ENGINES[network] = engine


def engine_of(network: Any) -> TextEngine | None:
    """Return the engine that generates for a network; None for a network that generates by itself."""
    return _ENGINES.get(network)


def check_greedy(engine: TextEngine, network: Any, options: Mapping[str, Any]) -> None:
    """Raise EvaluatorError, naming them, for settings of generation that engines do not follow."""
    names = without_equal(network, options)
    if effective(network, options).do_sample:
        names = ["do_sample", *names]
    if names:
        raise EvaluatorError(
            f"`backend: {engine.name}` generates greedily, with a repetition penalty at most; this task or its model "
            f"sets {', '.join(names)} for generation. Remove the setting, or use `backend: transformers`."
        )
