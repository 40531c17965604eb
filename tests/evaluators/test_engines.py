"""Engines that generate in place of the network: the same texts, whatever they write after a stop string."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from evaluators._engines import engine_of, write_with
from evaluators._generation import Generator
from evaluators.base import EvaluatorError
from tests.evaluators.plain_engine import Plain
from tests.evaluators.test_continuous import N_NEW, PROMPTS, SUPPRESSED
from tests.evaluators.tiny_llama import TinyModel


@pytest.fixture
def pair(make_model: Callable[..., TinyModel]) -> tuple[TinyModel, TinyModel]:
    """The same model twice."""
    return make_model(4), make_model(4)


@pytest.mark.parametrize("stop", [(), ("a", "Q", "0Z", "7"), ("q?", "xx", ":", "Me")])
@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_texts_are_those_of_the_network(
    pair: tuple[TinyModel, TinyModel], stop: tuple[str, ...], penalty: float
) -> None:
    model, other = pair
    which = [5, 0, 3, *range(8, 24)]
    options = {"repetition_penalty": penalty}
    expected = Generator(model, PROMPTS, N_NEW, stop, options=options).run(model.network, which)
    engine = Plain(model.network)
    write_with(other.network, engine)
    generator = Generator(other, PROMPTS, N_NEW, stop, options=options)
    assert engine.longest == max(len(model.tokenizer.encode(prompt)) for prompt in PROMPTS) + N_NEW
    calls: list[Any] = []
    other.network.register_forward_hook(lambda *_: calls.append(1))
    assert generator.run(other.network, which) == expected
    assert not calls
    assert len({one.text for one in expected}) > 3
    assert {asked.penalty for asked in engine.asked} == {penalty}
    if stop:
        assert any(len(one.tokens) < N_NEW and not one.truncated for one in expected)


def test_another_network_still_writes_by_itself(pair: tuple[TinyModel, TinyModel]) -> None:
    model, other = pair
    write_with(other.network, Plain(other.network))
    assert engine_of(model.network) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"do_sample": True, "min_p": 0.5}, "min_p"),
        ({"do_sample": True, "temperature": 2.5}, "a temperature above 2"),
        ({"suppress_tokens": SUPPRESSED}, "suppress_tokens"),
        ({"num_beams": 3}, "num_beams"),
    ],
)
def test_settings_that_an_engine_does_not_follow_are_refused(
    pair: tuple[TinyModel, TinyModel], options: dict[str, Any], named: str
) -> None:
    model, other = pair
    Generator(model, PROMPTS, N_NEW, (), options=options)
    write_with(other.network, Plain(other.network))
    with pytest.raises(
        EvaluatorError, match=rf"`backend: plain` follows temperature.* also sets {named} for generation"
    ):
        Generator(other, PROMPTS, N_NEW, (), options=options)
    other.network.generation_config.no_repeat_ngram_size = 2
    with pytest.raises(EvaluatorError, match="also sets no_repeat_ngram_size for generation"):
        Generator(other, PROMPTS, N_NEW, ())


def test_samples_are_drawn_by_the_prompt_and_the_random_state(pair: tuple[TinyModel, TinyModel]) -> None:
    model, _ = pair
    engine = Plain(model.network)
    write_with(model.network, engine)
    options = {"do_sample": True, "temperature": 0.5, "top_p": 0.9}
    generator = Generator(model, PROMPTS, N_NEW, (), options=options)
    assert generator.samples
    for seed, which in ((1, [0, 1, 2]), (1, [2, 0]), (2, [0, 1, 2])):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            generator.run(model.network, which)
            generator.run(model.network, which)
    drawn = [asked.sampling for asked in engine.asked if asked.sampling is not None]
    assert {(each.temperature, each.top_k, each.top_p) for each in drawn} == {(0.5, 50, 0.9)}
    (first, again), (part, _), (other, _) = ([each.seeds for each in drawn[n : n + 2]] for n in (0, 2, 4))
    assert part == (first[2], first[0])
    assert len({*first, *again, *other}) == 9
