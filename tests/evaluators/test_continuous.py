"""Continuous batching: rows leave and enter a batch, and every text is that of `generate` on its prompt alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from evaluators._endings import Generation
from evaluators._generation import Generator
from tests.evaluators.tiny_llama import LLAMA, LOUD, TinyModel

N_NEW = 12
STOP = (*"aeioudgl37BDKRS?", "0Z")
PREFIX = "Count: one two three four five six seven eight nine ten. "
#: Some with a common beginning that is read once, of many lengths.
PROMPTS = [f"{PREFIX * (i % 3 == 0)}{'so ' * (5 * i % 11)}{i} and {7 * i}=" for i in range(24)]
SUPPRESSED = list(range(20, 50))
NEOX = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {**LLAMA, **LOUD}),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, **LOUD}),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, {**NEOX, **LOUD}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {**LLAMA, **LOUD}),
}


def _alone(model: TinyModel, prompt: str, stop: tuple[str, ...] = STOP, **options: Any) -> str:
    """The text of `generate` for one prompt, up to the first stop string."""
    tokens = torch.tensor([model.tokenizer.encode(prompt)])
    written = model.network.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=N_NEW,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    text = str(model.tokenizer.decode(written[0, tokens.shape[1] :], skip_special_tokens=True))
    return min((text.split(each)[0] for each in stop), key=len, default=text)


@contextmanager
def _batches(network: Any) -> Iterator[list[tuple[int, int]]]:
    """Yield a list that gets the shape of every batch of tokens, (rows, tokens)."""
    shapes: list[tuple[int, int]] = []
    handle = network.get_input_embeddings().register_forward_hook(
        lambda _, inputs, __: shapes.append(tuple(inputs[0].shape))
    )
    yield shapes
    handle.remove()


def _run(model: TinyModel, stop: tuple[str, ...] = STOP, **options: Any) -> tuple[list[Generation], list[Any]]:
    generator = Generator(model, PROMPTS, N_NEW, stop, batch_tokens=600, options=options)
    which = list(range(len(PROMPTS)))
    generator.run(model.network, which)  # tests once whether the network can
    with _batches(model.network) as shapes:
        return generator.run(model.network, which), shapes


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_texts_are_those_of_generate(make_model: Callable[..., TinyModel], name: str) -> None:
    config, architecture, own = ARCHITECTURES[name]
    model = make_model(3, config, architecture, **own)
    found, shapes = _run(model)
    assert [one.text for one in found] == [_alone(model, prompt) for prompt in PROMPTS]
    assert len({one.text for one in found}) > 3
    steps = [rows for rows, tokens in shapes if tokens == 1]
    written = [len(one.tokens) for one in found]
    assert len(set(written)) > 3
    # The first token comes from the prompt; at most every eighth row of a step has ended, or one in a small batch.
    assert sum(written) - len(PROMPTS) <= sum(steps) <= 1.3 * (sum(written) - len(PROMPTS))
    assert any(later > earlier for earlier, later in pairwise(steps))


def test_a_row_ends_at_a_stop_string_of_several_tokens(model: TinyModel) -> None:
    """The tokenizer has one token for every character."""
    whole, _ = _run(model, ())
    stops = tuple(dict.fromkeys(one.text[2:4] for one in whole if len(one.text) > 6))[:3]
    found, _ = _run(model, stops)
    assert [one.text for one in found] == [_alone(model, prompt, stops) for prompt in PROMPTS]
    ended = [(one, before) for one, before in zip(found, whole, strict=True) if any(s in before.text for s in stops)]
    assert len(ended) > 2
    for one, before in ended:
        last, earlier = (model.tokenizer.decode(tokens) for tokens in (one.tokens, one.tokens[:-1]))
        assert any(stop in last for stop in stops)
        assert not any(stop in earlier for stop in stops)
        assert len(one.tokens) < len(before.tokens)
        assert not one.truncated


def test_the_networks_own_repetition_penalty_is_followed(make_model: Callable[..., TinyModel]) -> None:
    model = make_model(5)
    plain, _ = _run(model, ())
    model.network.generation_config.repetition_penalty = 3.0
    found, shapes = _run(model, ())
    assert [one.text for one in found] == [_alone(model, prompt, ()) for prompt in PROMPTS]
    assert [one.text for one in found] != [one.text for one in plain]
    assert max(tokens for _, tokens in shapes) < max(map(len, PROMPTS))  # the common beginning was read once


def test_settings_that_are_not_followed_are_left_to_generate(make_model: Callable[..., TinyModel]) -> None:
    model = make_model(6)
    found, shapes = _run(model, (), suppress_tokens=SUPPRESSED)
    assert [one.text for one in found] == [_alone(model, prompt, (), suppress_tokens=SUPPRESSED) for prompt in PROMPTS]
    assert max(tokens for _, tokens in shapes) == max(len(model.tokenizer.encode(prompt)) for prompt in PROMPTS)


def test_rows_with_nan_end_at_once(model: TinyModel, broken_model: TinyModel) -> None:
    generator = Generator(model, PROMPTS, N_NEW, ())
    generator.run(model.network, range(len(PROMPTS)))
    with _batches(broken_model.network) as shapes:
        found = generator.run(broken_model.network, range(len(PROMPTS)))
    assert not any(one.finite for one in found)
    assert all(tokens > 1 for _, tokens in shapes)
