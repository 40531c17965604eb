"""Greedy continuations after a prefix that is read once, against one whole prompt at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from evaluators._endings import Generation
from evaluators._generation import Generator
from evaluators.base import LanguageModel
from evaluators.exact_match import ExactMatch
from evaluators.lm_eval_task import LmEvalTask
from tests.evaluators.task_files import write_task
from tests.evaluators.tiny_llama import LLAMA, LOUD, TinyModel, write_lines

SHOTS = "".join(f"Q: {i}+{i + 1}= A: {2 * i + 1}\n\n" for i in range(6))
LENGTH = 6
N = 6
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {**LLAMA, **LOUD}),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, **LOUD}),
    "mistral (wide window)": (MistralConfig, MistralForCausalLM, {**LLAMA, "sliding_window": 255, **LOUD}),
    "mistral (window that ends while writing)": (
        MistralConfig,
        MistralForCausalLM,
        {**LLAMA, "sliding_window": len(SHOTS) + 54, **LOUD},
    ),
    "bloom (positions from the mask)": (
        BloomConfig,
        BloomForCausalLM,
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, **LOUD},
    ),
    "mamba (no key-value cache)": (
        MambaConfig,
        MambaForCausalLM,
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, **LOUD},
    ),
}
SHARING = ("llama", "gpt2", "mistral (wide window)")


def _prompts(shots: str = SHOTS, n_prompts: int = N) -> list[str]:
    """Own parts of 5 to 50 characters."""
    return [f"{shots}Q: {'so ' * (3 * i)}{i}=" for i in range(n_prompts)]


def _by_hand(model: LanguageModel, prompt: str) -> str:
    """One full forward per token, no cache, no padding, no generate."""
    tokens = model.tokenizer.encode(prompt)
    n_prompt = len(tokens)
    with torch.no_grad():
        for _ in range(LENGTH):
            tokens.append(int(model.network(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == model.tokenizer.eos_token_id:
                break
    return str(model.tokenizer.decode(tokens[n_prompt:], skip_special_tokens=True))


def _run(model: LanguageModel, generator: Generator, which: range) -> tuple[list[Generation], int]:
    """Continuations, and how many tokens were read for them (padding included)."""
    sizes: list[int] = []
    embeddings = model.network.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].numel()))
    found = generator.run(model.network, which)
    hook.remove()
    return found, sum(sizes)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(make_model: Callable[..., TinyModel], name: str) -> None:
    config, architecture, own = ARCHITECTURES[name]
    model = make_model(3, config, architecture, **own)
    prompts = _prompts()
    generator = Generator(model, prompts, LENGTH, (), batch_tokens=700)
    generator.run(model.network, range(N))
    found, read = _run(model, generator, range(N))
    expected = [_by_hand(model, prompt) for prompt in prompts]
    assert [one.text for one in found] == expected
    assert len(set(expected)) > 2
    whole = sum(len(model.tokenizer.encode(prompt)) for prompt in prompts)
    assert (read < 0.75 * whole) == (name in SHARING)


def test_a_prefix_is_read_once_per_candidate(model: TinyModel, other_model: TinyModel) -> None:
    """Whatever was read for the candidate before, in whatever batches."""
    prompts = _prompts()
    generator = Generator(model, prompts, LENGTH, ())
    generator.run(model.network, range(N))
    own = sum(len(prompt) - len(SHOTS) for prompt in prompts)
    expected = {
        candidate.folder: [_by_hand(candidate, prompt) for prompt in prompts] for candidate in (model, other_model)
    }
    assert expected[model.folder] != expected[other_model.folder]
    for candidate in (model, other_model, model):
        found, read = _run(candidate, generator, range(N))
        assert [one.text for one in found] == expected[candidate.folder]
        assert len(SHOTS) + own < read < len(SHOTS) + 1.2 * own + N * LENGTH


def test_weights_that_change_in_place_are_read_anew(make_model: Callable[..., TinyModel]) -> None:
    """As those of a search do: the network stays the same object."""
    model, other = make_model(4), make_model(5)
    generator = Generator(model, _prompts(), LENGTH, ())
    before = generator.run(model.network, range(N))
    model.network.load_state_dict(other.network.state_dict())
    after = generator.run(model.network, range(N))
    assert [one.text for one in after] == [_by_hand(other, prompt) for prompt in _prompts()]
    assert before != after


def test_several_beginnings_and_prompts_without_one(model: TinyModel) -> None:
    other = "".join(f"Is {i} odd? {'yes' if i % 2 else 'no'}\n" for i in range(8))
    prompts = [*_prompts(n_prompts=4), *_prompts(other, 4), "Say 3"]
    order = [0, 4, 8, 1, 5, 2, 6, 3, 7]
    generator = Generator(model, [prompts[i] for i in order], LENGTH, ())
    for _ in range(2):
        found, read = _run(model, generator, range(9))
        assert [one.text for one in found] == [_by_hand(model, prompts[i]) for i in order]
    assert read < 0.6 * sum(map(len, prompts))


def test_a_prompt_alone_is_read_whole(model: TinyModel) -> None:
    """As the seconds of an answer include its prompt, and nothing is tried meanwhile."""
    prompts = _prompts()
    found, read = _run(model, Generator(model, prompts, LENGTH, ()), range(3, 4))
    assert len(prompts[3]) <= read <= len(prompts[3]) + LENGTH
    assert found[0].text == _by_hand(model, prompts[3])


def test_broken_weights_decide_nothing(model: TinyModel, broken_model: TinyModel) -> None:
    prompts = _prompts()
    generator = Generator(model, prompts, LENGTH, ())
    assert not any(one.finite for one in generator.run(broken_model.network, range(N)))
    generator.run(model.network, range(N))
    assert _run(model, generator, range(N))[1] < 0.75 * sum(map(len, prompts))


def test_drawn_tokens_do_not_depend_on_sharing(model: TinyModel) -> None:
    generator = Generator(model, _prompts(), LENGTH, (), options={"do_sample": True})
    generator.run(model.network, range(N))
    _, read = _run(model, generator, range(N))
    assert read >= sum(map(len, _prompts()))


def test_options_that_a_repeated_cache_does_not_fit(model: TinyModel) -> None:
    beams = Generator(model, _prompts(), LENGTH, (), options={"num_beams": 2})
    alone = [beams.run(model.network, [i])[0].text for i in range(N)]
    assert [one.text for one in beams.run(model.network, range(N))] == alone


class _Forgetful(LlamaForCausalLM):  # type: ignore[misc]
    """Hands out a cache of zeros."""

    def forward(self, *args: Any, **options: Any) -> Any:
        found = super().forward(*args, **options)
        for layer in getattr(found.past_key_values, "layers", ()):
            layer.keys = torch.zeros_like(layer.keys) if layer.keys.shape[0] == 1 else layer.keys
        return found


def test_a_cache_that_cannot_be_trusted_is_not_used(model: TinyModel) -> None:
    network = _Forgetful(model.network.config).eval()
    network.load_state_dict(model.network.state_dict())
    generator = Generator(model, _prompts(), LENGTH, ())
    assert [one.text for one in generator.run(network, range(N))] == [_by_hand(model, p) for p in _prompts()]


def test_solved_examples_of_exact_match_are_read_once(model: TinyModel, tmp_path: Path) -> None:
    rows = [{"prompt": f"{'so ' * (i % 5)}{i}+1=", "answer": str(i + 1)} for i in range(25)]
    evaluator = ExactMatch(
        file=str(write_lines(tmp_path / "sums.jsonl", rows)), num_fewshot=5, max_new_tokens=LENGTH, stop=()
    )
    evaluator.score(model)
    generator = evaluator._engine.of(model)
    found, read = _run(model, generator, range(20))
    assert [one.text for one in found] == [_by_hand(model, prompt) for prompt in evaluator._presented]
    whole = sum(map(len, evaluator._presented))
    assert read < 0.45 * (whole + 20 * (LENGTH - 1))
    np.testing.assert_array_equal(
        evaluator.score(model).values,
        [float(one.text.strip() in answers) for one, answers in zip(found, evaluator._answers, strict=True)],
    )


@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": False, "num_beams": 2}])
def test_the_description_of_an_lm_eval_task_is_read_once(
    model: TinyModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """By greedy search; beams repeat the cache in their own way, and read it with every prompt."""
    task = write_task(
        tmp_path,
        output_type="generate_until",
        description=SHOTS,
        doc_to_choice=None,
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["e"], "max_gen_toks": LENGTH, **options},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    evaluator = LmEvalTask(task=str(task))
    for _ in range(2):
        sizes: list[int] = []
        hook = model.network.get_input_embeddings().register_forward_hook(
            lambda _, inputs, __, sizes=sizes: sizes.append(inputs[0].numel())
        )
        scores = evaluator.score(model)
        hook.remove()
    assert np.isfinite(scores.values).all()
    assert (sum(sizes) < 2 * len(SHOTS)) == ("num_beams" not in options)
