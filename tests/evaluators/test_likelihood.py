"""The likelihood engine against one full float64 row at a time, over architectures and batchings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from evaluators._likelihood import Answers, Likelihoods
from evaluators.base import EvaluatorError
from tests.evaluators.tiny_llama import LLAMA, LOUD, TinyModel

Pair = tuple[tuple[int, ...], tuple[int, ...]]
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, **LOUD}),
    "gemma2 (capped logits)": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {**LLAMA, "head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 1.0, **LOUD},
    ),
    "mistral (sliding window)": (MistralConfig, MistralForCausalLM, {**LLAMA, "sliding_window": 16, **LOUD}),
    "mamba (no key-value cache)": (
        MambaConfig,
        MambaForCausalLM,
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, **LOUD},
    ),
}


def _examples(n_examples: int = 14, seed: int = 0) -> list[list[Pair]]:
    """Long contexts with one to four continuations of one to five tokens."""
    draw = np.random.default_rng(seed)

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(int(token) for token in draw.integers(4, 80, size))

    contexts = [tokens(int(draw.integers(20, 50))) for _ in range(n_examples)]
    return [[(c, tokens(int(draw.integers(1, 6)))) for _ in range(1 + i % 4)] for i, c in enumerate(contexts)]


def _by_hand(network: Any, pair: Pair) -> tuple[float, bool]:
    context, continuation = pair
    with torch.no_grad():
        scores = network(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1].double()
    targets = torch.tensor(continuation)
    total = float(scores.log_softmax(-1).gather(1, targets[:, None]).sum())
    return total, bool((scores.argmax(-1) == targets).all())


def _check(network: Any, examples: list[list[Pair]], found: list[Answers]) -> None:
    for pairs, answers in zip(examples, found, strict=True):
        expected = [_by_hand(network, pair) for pair in pairs]
        np.testing.assert_allclose(answers.loglikelihoods, [total for total, _ in expected], atol=2e-3)
        assert answers.greedy.tolist() == [greedy for _, greedy in expected]


def _count_tokens(network: Any, run: Callable[[], Any]) -> int:
    counted = 0

    def count(_module: Any, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
        nonlocal counted
        counted += inputs[0].numel()

    hook = network.get_input_embeddings().register_forward_hook(count)
    run()
    hook.remove()
    return counted


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_batches_do_not_change_the_numbers(model: TinyModel, batch_tokens: int) -> None:
    examples = _examples()
    engine = Likelihoods(examples, 256, batch_tokens)
    _check(model.network, examples, engine.run(model.network, range(len(examples))))
    _check(model.network, examples[9:3:-2], engine.run(model.network, [9, 7, 5]))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(make_model: Callable[..., TinyModel], name: str) -> None:
    config, architecture, own = ARCHITECTURES[name]
    network = make_model(3, config, architecture, **own).network
    examples = _examples()
    engine = Likelihoods(examples, 256, 300)
    for _ in range(2):
        _check(network, examples, engine.run(network, range(len(examples))))


def test_greedy_continuations_are_recognised(model: TinyModel) -> None:
    context = (5, 6, 7)
    with torch.no_grad():
        best = int(model.network(torch.tensor([context])).logits[0, -1].argmax())
    (answers,) = Likelihoods([[(context, (best,)), (context, (best + 1,))]], 256, None).run(model.network, [0])
    assert answers.greedy.tolist() == [True, False]


def test_contexts_are_read_once_per_example(model: TinyModel) -> None:
    context = tuple(range(10, 60))
    examples = [[(context, (choice, 4, 5)) for choice in (20, 30, 40, 50)]] * 3
    engine = Likelihoods(examples, 256, None)
    engine.run(model.network, [0, 1, 2])
    n_tokens = _count_tokens(model.network, lambda: engine.run(model.network, [0, 1, 2]))
    assert n_tokens == 3 * 49 + 12 * 3


def test_continuations_of_one_token_share_one_row(model: TinyModel) -> None:
    context = tuple(range(10, 60))
    examples = [[(context, (choice,)) for choice in (20, 30, 40, 50)]]
    engine = Likelihoods(examples, 256, None)
    assert _count_tokens(model.network, lambda: engine.run(model.network, [0])) == 50
    _check(model.network, examples, engine.run(model.network, [0]))


def test_choices_may_stand_in_the_context(model: TinyModel) -> None:
    """As in Winogrande: contexts differ, what follows is the same."""
    start, end = tuple(range(10, 50)), (8, 9)
    examples = [[(start + middle + (7, 7, 7), end) for middle in ((20,), (30, 31), (40,))]] * 2
    engine = Likelihoods(examples, 256, None)
    for _ in range(2):
        _check(model.network, examples, engine.run(model.network, [0, 1]))
    assert engine._examples[0].shared == len(start)


class _Forgetful(LlamaForCausalLM):  # type: ignore[misc]
    """Hands out a cache and then ignores it."""

    def forward(self, *args: Any, past_key_values: Any = None, **options: Any) -> Any:
        return super().forward(*args, **options)


def test_a_cache_that_cannot_be_trusted_is_not_used(model: TinyModel) -> None:
    network = _Forgetful(model.network.config).eval()
    network.load_state_dict(model.network.state_dict())
    examples = _examples()
    engine = Likelihoods(examples, 256, 300)
    for _ in range(2):
        _check(network, examples, engine.run(network, range(len(examples))))


def test_long_contexts_lose_their_beginning(model: TinyModel) -> None:
    context, continuation = tuple(range(4, 64)), (9, 10)
    (answers,) = Likelihoods([[(context, continuation)]], 20, None).run(model.network, [0])
    kept = (context + continuation)[-21:]
    expected = _by_hand(model.network, (kept[:-2], continuation))[0]
    assert answers.loglikelihoods[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("length", [0, 21])
def test_continuations_must_fit(length: int) -> None:
    with pytest.raises(EvaluatorError, match=f"has {length} tokens; the model takes 1 to 20"):
        Likelihoods([[((1, 2), (3,) * length)]], 20, None)


def test_16_bit_models_are_compared_in_float32(model: TinyModel) -> None:
    network = LlamaForCausalLM.from_pretrained(model.folder, dtype=torch.bfloat16).eval()
    context = tuple(range(10, 40))
    choices = [(choice,) for choice in range(4, 84)]
    (answers,) = Likelihoods([[(context, choice) for choice in choices]], 256, None).run(network, [0])
    assert np.exp(answers.loglikelihoods).sum() == pytest.approx(1.0, abs=0.2)
    steps = np.unique(np.round(np.diff(np.sort(answers.loglikelihoods)), 7))
    assert (answers.loglikelihoods * 8 % 1 != 0).any()
    assert len(steps) > 5
