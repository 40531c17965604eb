"""Engines that continue prompts in place of a transformers network, with the same weights in a form of their own.

A worker registers an engine for its network; whatever generates from that network then asks the engine. Evaluators stay
unaware of engines, and a network without one writes by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from evaluators._generation_settings import effective, without_equal
from evaluators._rows import Tokens
from evaluators.base import EvaluatorError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature, top_k, top_p: as in transformers. seeds: one per prompt."""

    temperature: float
    top_k: int
    top_p: float
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Instructions:
    """Settings under which prompts are continued.

    n_new: length limit in tokens. ends: end tokens. stop: strings that end a continuation; what an engine writes after
    them is cut. penalty: factor by which the logits of earlier tokens are reduced, as in transformers; 1 for none.
    tokenizer: that of the prompts. sampling: None to take the most likely token.
    """

    n_new: int
    ends: frozenset[int]
    stop: tuple[str, ...]
    penalty: float
    tokenizer: Any
    sampling: Sampling | None = None


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
        """Prepare for prompts whose continuations end within `n_tokens`; called for every set of prompts."""

    def write(self, prompts: Sequence[Tokens], instructions: Instructions) -> list[Written]:
        """Return the continuations, in the order of the prompts."""


#: Ways to draw tokens that vLLM applies in another order than transformers, or lacks.
_OTHER_DRAWS = ("min_p", "typical_p")
#: By network. An attribute of the network would be lost when its state is restored before each scoring.
_ENGINES: WeakKeyDictionary[Any, TextEngine] = WeakKeyDictionary()


def write_with(network: Any, engine: TextEngine) -> None:
    """Let an engine generate whatever is generated from a network from now on."""
    _ENGINES[network] = engine


def engine_of(network: Any) -> TextEngine | None:
    """Return the engine that generates for a network; None for a network that generates by itself."""
    # Objects that stand for a network where nothing is scored need not allow weak references.
    return _ENGINES.get(network) if hasattr(network, "__weakref__") else None


def check_settings(engine: TextEngine, network: Any, options: Mapping[str, Any]) -> None:
    """Raise EvaluatorError, naming them, for settings of generation that engines do not follow."""
    config = effective(network, options)
    names = without_equal(network, options)
    if config.do_sample:
        names += [name for name in _OTHER_DRAWS if getattr(config, name, None) not in (None, 0, 1)]
        names += ["a temperature above 2"] if (config.temperature or 0) > 2 else []
    if names:
        raise EvaluatorError(
            f"`backend: {engine.name}` follows temperature, top_k, top_p and repetition_penalty; this task or its "
            f"model also sets {', '.join(names)} for generation. Remove the setting, or use `backend: transformers`."
        )


def sampling_of(network: Any, options: Mapping[str, Any], prompts: Sequence[int]) -> Sampling | None:
    """Return how `generate` would draw tokens, with seeds that depend on torch's random state and the prompts' numbers.

    None for greedy continuations.
    """
    config = effective(network, options)
    if not config.do_sample:
        return None
    defaults = config._get_default_generation_params()
    temperature, top_k, top_p = (
        defaults[name] if getattr(config, name) is None else getattr(config, name)
        for name in ("temperature", "top_k", "top_p")
    )
    first = int(torch.randint(2**31, ()))
    return Sampling(float(temperature), int(top_k), float(top_p), tuple((first + i) % 2**31 for i in prompts))
