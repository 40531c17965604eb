"""The likelihood engine against one full float64 row at a time, over architectures and batchings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
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
    "mistral (wide window)": (MistralConfig, MistralForCausalLM, {**LLAMA, "sliding_window": 255, **LOUD}),
    "cohere (scaled logits)": (CohereConfig, CohereForCausalLM, {**LLAMA, "logit_scale": 0.25, **LOUD}),
    "granite (divided logits)": (GraniteConfig, GraniteForCausalLM, {**LLAMA, "logits_scaling": 4.0, **LOUD}),
    "bloom (positions from the mask)": (BloomConfig, BloomForCausalLM, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon_h1 (attention and states)": (
        FalconH1Config,
        FalconH1ForCausalLM,
        {**LLAMA, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, **LOUD},
    ),
    "mamba (no key-value cache)": (
        MambaConfig,
        MambaForCausalLM,
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, **LOUD},
    ),
}
#: Those that read shared tokens once: attention to the whole text in every layer, positions that can be given.
SHARING = ("gpt2", "mistral (wide window)", "cohere (scaled logits)", "granite (divided logits)")


def _examples(n_examples: int = 14, seed: int = 0, n_shots: int = 0) -> list[list[Pair]]:
    """Long contexts with one to four continuations of one to five tokens, after `n_shots` tokens that are the same."""
    draw = np.random.default_rng(seed)
    shots = tuple(int(token) for token in draw.integers(4, 80, n_shots))

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(int(token) for token in draw.integers(4, 80, size))

    contexts = [shots + tokens(int(draw.integers(20, 50))) for _ in range(n_examples)]
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


def _count(module: Any, run: Callable[[], Any], size: Callable[[torch.Tensor, torch.Tensor], int]) -> int:
    """Sum of `size` of what goes into and comes out of a module while `run` runs."""
    sizes: list[int] = []
    hook = module.register_forward_hook(lambda _, inputs, output: sizes.append(size(inputs[0], output)))
    run()
    hook.remove()
    return sum(sizes)


def _count_tokens(network: Any, run: Callable[[], Any]) -> int:
    return _count(network.get_input_embeddings(), run, lambda tokens, _: tokens.numel())


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
    for n_shots in (0, 60):
        examples = _examples(8, n_shots=n_shots)
        engine = Likelihoods(examples, 256, 600)
        for _ in range(2):
            _check(network, examples, engine.run(network, range(len(examples))))
        read = _count_tokens(network, lambda: engine.run(network, range(len(examples))))  # noqa: B023 - called at once
        found = engine.with_gradients(network, range(len(examples)))
        for own, answers in zip(found, engine.run(network, range(len(examples))), strict=True):
            np.testing.assert_allclose(own.detach().numpy(), answers.loglikelihoods, atol=1e-4)
        assert all(torch.autograd.grad(found[0].sum(), network.get_input_embeddings().weight)[0].isfinite().ravel())
        distinct = sum(len(text) for example in engine._examples for text in example.texts)
        assert (read < 0.75 * distinct) == (name in SHARING)
        assert read < 1.15 * distinct


def test_only_scored_places_reach_the_head(make_model: Callable[..., TinyModel]) -> None:
    """Whatever the network does with the logits afterwards (here it caps them)."""
    config, architecture, own = ARCHITECTURES["gemma2 (capped logits)"]
    network = make_model(3, config, architecture, **own).network
    examples = _examples()
    engine = Likelihoods(examples, 256, None)
    engine.run(network, range(len(examples)))
    head = network.get_output_embeddings()
    rows = _count(head, lambda: engine.run(network, range(len(examples))), lambda _, logits: logits[..., 0].numel())
    assert rows <= sum(len(continuation) for pairs in examples for _, continuation in pairs)


def test_only_scored_places_reach_the_head_with_gradients(model: TinyModel) -> None:
    examples = _examples()
    engine = Likelihoods(examples, 256, None)
    head = model.network.get_output_embeddings()
    engine.with_gradients(model.network, [0])  # tries the head
    rows = _count(
        head,
        lambda: engine.with_gradients(model.network, range(len(examples))),
        lambda _, logits: logits[..., 0].numel(),
    )
    assert rows <= sum(len(continuation) for pairs in examples for _, continuation in pairs)


def test_prompts_of_different_lengths_are_read_once(model: TinyModel) -> None:
    examples = [pairs for pairs in _examples(40) if len(pairs) > 1]
    engine = Likelihoods(examples, 256, None)
    engine.run(model.network, range(len(examples)))
    read = _count_tokens(model.network, lambda: engine.run(model.network, range(len(examples))))
    least = sum(example.branched for example in engine._examples)
    assert least <= read <= 1.15 * least


def test_what_all_prompts_begin_with_is_read_once(model: TinyModel) -> None:
    examples = _examples(40, n_shots=150)
    engine = Likelihoods(examples, 256, None)
    answers = engine.run(model.network, range(len(examples)))
    _check(model.network, examples, answers)
    read = _count_tokens(model.network, lambda: engine.run(model.network, range(len(examples))))
    alone = sum(example.branched - 150 for example in engine._examples)
    assert 150 + alone <= read <= 150 + 1.15 * alone
    for subset in ([3], [7, 2, 30]):
        for one, other in zip(engine.run(model.network, subset), [answers[i] for i in subset], strict=True):
            np.testing.assert_allclose(one.loglikelihoods, other.loglikelihoods, atol=1e-4)


def test_several_beginnings_are_read_once_each(model: TinyModel) -> None:
    """As the tasks of an lm-eval group have, one of them beside it."""
    one, other, alone = _examples(10, 1, n_shots=100), _examples(10, 2, n_shots=80), _examples(1, 3)
    examples = [pairs for both in zip(one, other, strict=True) for pairs in both] + alone
    engine = Likelihoods(examples, 256, None)
    _check(model.network, examples, engine.run(model.network, range(len(examples))))
    read = _count_tokens(model.network, lambda: engine.run(model.network, range(len(examples))))
    rest = sum(example.branched for example in engine._examples) - 10 * 180
    assert read <= 180 + 1.2 * rest


def test_a_chain_of_prompts_that_each_begin_with_the_last(model: TinyModel) -> None:
    examples = [[(tuple(range(4, 4 + length)), (9,))] for length in range(10, 70)]
    engine = Likelihoods(examples, 256, None)
    _check(model.network, examples, engine.run(model.network, range(len(examples))))


def test_little_padding_whatever_the_lengths(model: TinyModel) -> None:
    draw = np.random.default_rng(4)
    lengths = [int(length) for length in np.clip(draw.lognormal(3, 0.8, 200), 2, 200)]
    examples = [[(tuple(draw.integers(4, 80, length).tolist()), (5,))] for length in lengths]
    engine = Likelihoods(examples, 256, None)
    engine.run(model.network, range(200))
    read = _count_tokens(model.network, lambda: engine.run(model.network, range(200)))
    assert sum(lengths) <= read <= 1.15 * sum(lengths)


def test_broken_weights_decide_nothing(make_model: Callable[..., TinyModel]) -> None:
    network = make_model(8).network
    examples = _examples(n_shots=60)
    engine = Likelihoods(examples, 256, None)
    sound = network.lm_head.weight.detach().clone()
    network.lm_head.weight.detach().fill_(float("nan"))
    assert all(np.isnan(answers.loglikelihoods).all() for answers in engine.run(network, range(len(examples))))
    network.lm_head.weight.detach().copy_(sound)
    _check(network, examples, engine.run(network, range(len(examples))))
    read = _count_tokens(network, lambda: engine.run(network, range(len(examples))))
    assert read < 60 + 1.15 * sum(example.branched - 60 for example in engine._examples)


def test_greedy_continuations_are_recognised(model: TinyModel) -> None:
    context = (5, 6, 7)
    with torch.no_grad():
        best = int(model.network(torch.tensor([context])).logits[0, -1].argmax())
    (answers,) = Likelihoods([[(context, (best,)), (context, (best + 1,))]], 256, None).run(model.network, [0])
    assert answers.greedy.tolist() == [True, False]


def test_contexts_are_read_once_per_example(model: TinyModel) -> None:
    contexts = [tuple(range(first, first + 50)) for first in (8, 9, 10)]
    examples = [[(context, (choice, 4, 5)) for choice in (20, 30, 40, 50)] for context in contexts]
    engine = Likelihoods(examples, 256, None)
    engine.run(model.network, [0, 1, 2])
    n_tokens = _count_tokens(model.network, lambda: engine.run(model.network, [0, 1, 2]))
    assert n_tokens == 3 * 49 + 12 * 3


def test_continuations_of_one_token_share_one_row(model: TinyModel) -> None:
    context = tuple(range(10, 60))
    examples = [[(context, (choice,)) for choice in (20, 30, 40, 50)]]
    engine = Likelihoods(examples, 256, None)
    engine.run(model.network, [0])
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
    with pytest.raises(EvaluatorError, match=f"has {length} tokens; expected 1 to 20"):
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


def test_a_window_is_seen_where_the_weights_hardly_show_it(make_model: Callable[..., TinyModel]) -> None:
    config, architecture, own = ARCHITECTURES["mistral (sliding window)"]
    network = make_model(3, config, architecture, **{**own, "initializer_range": 1e-4}).network
    engine = Likelihoods(_examples(8), 256, None)
    engine.run(network, range(8))
    read = _count_tokens(network, lambda: engine.run(network, range(8)))
    assert read >= sum(len(text) for example in engine._examples for text in example.texts)
