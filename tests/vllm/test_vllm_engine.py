"""Real vLLM on a CPU: it writes what the network writes under the same weights, also after they have changed."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluators._endings import Generation
from evaluators._engines import write_with
from evaluators._examples import read_json_lines
from evaluators._generation import Generator
from evomerge.bench import Bench
from evomerge.launch.plan import Plan, prepare
from evomerge.resident.resident import ResidentModel, read_tokenizer
from evomerge.resident.vllm_engine import EngineError, VllmEngine
from evomerge.trial import Trial
from tests.evaluators.tiny_llama import build
from tests.vllm.conftest import LONG, Configured

pytestmark = pytest.mark.vllm
N_NEW = 8


@pytest.fixture
def plan(configured: Configured) -> Plan:
    return prepare(configured())


@pytest.fixture
def prompts(models: Path) -> list[str]:
    return [line.prompt(None, None) for line in read_json_lines(str(models / "data/sort.jsonl"), None)]


@pytest.fixture
def benches(plan: Plan) -> tuple[Bench, Bench]:
    """One that generates with vLLM, and one with transformers."""
    return plan.spec(), replace(plan.spec, backend=None)()


@pytest.fixture
def long(tmp_path: Path) -> tuple[ResidentModel, VllmEngine]:
    made = build(tmp_path / "long", 1, **LONG)
    model = ResidentModel(made.tensors, made.network, made.tokenizer)
    options = {"kv_cache_memory_bytes": 50_000_000, "max_model_len": 400}
    engine = VllmEngine(model, made.folder, made.folder, options)
    write_with(model.network, engine)
    return model, engine


def written(model: Any, prompts: list[str], stop: tuple[str, ...] = ("\n",), n_new: int = N_NEW) -> list[Generation]:
    return Generator(model, prompts, n_new, stop).run(model.network, range(len(prompts)))


def points(plan: Plan, count: int) -> Iterator[Trial]:
    for seed in range(count):
        yield Trial(seed, np.random.default_rng(seed).random(plan.space.dimension), label="search")


def test_candidates_write_the_texts_of_transformers(
    plan: Plan, benches: tuple[Bench, Bench], prompts: list[str]
) -> None:
    """Ties between tokens aside, which rounding decides."""
    by_vllm, by_network = benches
    texts = set()
    for trial in points(plan, 4):
        mine, other = by_vllm.run(trial), by_network.run(trial)
        assert mine.failure is None
        for stop in (("\n",), ("8", "4 ")):
            found, expected = (written(bench.model, prompts, stop) for bench in benches)
            same = sum(a == b for a, b in zip(found, expected, strict=True))
            assert same >= 0.98 * len(prompts), trial
        texts.add(tuple(one.text for one in found))
        np.testing.assert_allclose(mine.scores["sort"].mean, other.scores["sort"].mean, atol=0.05)
        np.testing.assert_array_equal(mine.scores["count"].values, other.scores["count"].values)
    assert len(texts) == 4  # the weights did change


def test_a_model_scored_again_writes_the_same(plan: Plan, benches: tuple[Bench, Bench], prompts: list[str]) -> None:
    bench, _ = benches
    base = next(trial for trial in plan.planned if trial.label == "base")
    first, texts = bench.run(base).scores, written(bench.model, prompts)
    (other,) = points(plan, 1)
    assert bench.run(other).scores["sort"].accepted != first["sort"].accepted
    assert written(bench.model, prompts) != texts
    again = bench.run(base).scores
    assert written(bench.model, prompts) == texts
    for task, scores in first.items():
        np.testing.assert_array_equal(again[task].values, scores.values)
    assert again["sort"].accepted == first["sort"].accepted


def test_another_tokenizer_ends_at_stop_strings_too(benches: tuple[Bench, Bench], prompts: list[str]) -> None:
    bench, _ = benches
    expected = written(bench.model, prompts, ("8", "4 "))
    tokenizer = read_tokenizer(Path(bench.spec.recipe.base.path))
    assert written(bench.model.read_with(bench.model.network, tokenizer), prompts, ("8", "4 ")) == expected
    assert any(len(one.tokens) < 5 for one in expected)


def test_a_repetition_penalty_is_followed(long: tuple[ResidentModel, VllmEngine]) -> None:
    model, _ = long
    prompts = [f"so {n} and {7 * n}=" for n in range(12)]
    alone = model.read_with(copy.deepcopy(model.network))
    alone.network.generation_config.repetition_penalty = 2.0
    plain = written(model, prompts, (), 20)
    model.network.generation_config.repetition_penalty = 2.0
    found = written(model, prompts, (), 20)
    assert found != plain
    assert sum(a == b for a, b in zip(found, written(alone, prompts, (), 20), strict=True)) >= 11


def test_samples_follow_the_networks_probabilities(long: tuple[ResidentModel, VllmEngine]) -> None:
    """The first token of 2000 copies of a prompt, drawn at a temperature, from the most likely 6 only."""
    model, _ = long
    count, temperature, top_k = 2000, 2.0, 6
    options = {"do_sample": True, "temperature": temperature, "top_k": top_k}
    generator = Generator(model, ["so many words"] * count, 1, (), options=options)

    def draw(seed: int) -> list[int]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return [one.tokens[0] for one in generator.run(model.network, range(count))]

    drawn = draw(0)
    with torch.inference_mode():
        logits = model.network(input_ids=torch.tensor([model.tokenizer.encode("so many words")])).logits[0, -1]
    expected = (logits / temperature).topk(top_k)
    shares = expected.values.softmax(-1).tolist()
    for token, share in zip(expected.indices.tolist(), shares, strict=True):
        assert abs(drawn.count(token) / count - share) < 4 * (share * (1 - share) / count) ** 0.5 + 1e-3
    assert set(drawn) <= set(expected.indices.tolist())
    assert sum(share > 0.05 for share in shares) > 2
    assert draw(0) == drawn
    assert draw(1) != drawn


def test_keys_of_the_last_candidate_are_not_reused(
    long: tuple[ResidentModel, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine = long
    prompts = [f"{'so many words ' * 20}{n}=" for n in range(4)]
    first = written(model, prompts, ())
    engine.check()
    kept = {name: tensor.clone() for name, tensor in model.tensors.items()}

    def change(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> None:
        model.tensors[name].copy_(value(model.tensors[name]))
        engine.follow()

    change("model.embed_tokens.weight", lambda tensor: tensor.flip(0))
    second = written(model, prompts, ())
    assert second != first
    engine.check()
    # The mutation: a cache that says that it is empty, and is not.
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: True)
    for name, tensor in kept.items():
        change(name, lambda _, tensor=tensor: tensor)
    assert written(model, prompts, ()) != first
    with pytest.raises(EngineError, match=r"log-probabilities .* differ .*computes LlamaForCausalLM differently"):
        engine.check()
    monkeypatch.undo()
    engine.follow()
    assert written(model, prompts, ()) == first
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: False)
    engine.follow()
    with pytest.raises(EngineError, match="did not empty its prefix cache"):
        written(model, prompts, ())


def test_rows_for_added_tokens_are_used(tmp_path: Path) -> None:
    """As for `tokenizer: union`: the network has more rows than the configuration in the base's folder."""
    made = build(tmp_path, 1, **LONG)
    made.network.resize_token_embeddings(made.network.config.vocab_size + 70, mean_resizing=False)
    with torch.no_grad():
        made.network.lm_head.weight[-70:] = made.network.lm_head.weight[4:74] * 1.01
    alone = ResidentModel({}, copy.deepcopy(made.network), made.tokenizer)
    model = ResidentModel(made.tensors, made.network, made.tokenizer)
    options = {"kv_cache_memory_bytes": 50_000_000, "max_model_len": 400}
    write_with(model.network, VllmEngine(model, made.folder, made.folder, options))
    prompts = [f"so {n} and {7 * n}=" for n in range(12)]
    found = written(model, prompts, (), 12)
    assert max(token for one in found for token in one.tokens) >= made.network.config.vocab_size - 70
    assert sum(a == b for a, b in zip(found, written(alone, prompts, (), 12), strict=True)) >= 11


def test_a_text_longer_than_its_room_is_refused(long: tuple[ResidentModel, VllmEngine]) -> None:
    model, _ = long
    with pytest.raises(EngineError, match="A prompt with its continuation has 411 tokens, and max_model_len is 400"):
        written(model, ["so many words " * 28 + "1="], (), 17)


def test_weights_that_yield_nan_leave_examples_unscored(long: tuple[ResidentModel, VllmEngine]) -> None:
    model, engine = long
    assert all(one.finite for one in written(model, ["so 1=", "and 2="]))
    model.tensors["model.norm.weight"].fill_(float("nan"))
    engine.follow()
    assert not any(one.finite for one in written(model, ["so 1=", "and 2="]))


def test_a_model_that_vllm_cannot_run_is_one_line(tmp_path: Path) -> None:
    made = build(tmp_path, 0)
    model = ResidentModel(made.tensors, made.network, made.tokenizer)
    write_with(model.network, VllmEngine(model, made.folder, made.folder, {"max_model_len": 10_000}))
    with pytest.raises(EngineError, match=r"^vLLM 0[.\d]+ cannot run [^\n]*max_model_len[^\n]*$"):
        written(model, ["so 1="])
