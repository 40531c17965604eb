import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.moments import MomentsFile
from evomerge.prepare.calibration import collect
from evomerge.prepare.calibration.collect import Settings
from evomerge.prepare.calibration.data import CollectionError, Example, Text, encode_texts
from evomerge.prepare.calibration.gradients import sample
from evomerge.resident.resident import ResidentModel, load_resident
from tests.evaluators.tiny_llama import build

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}


def resident(folder: Path, *given: Any, **own: Any) -> ResidentModel:
    build(folder, 3, *given, **own)
    return load_resident(Checkpoint.open(folder), folder, torch.float32, "cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    return resident(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    given = (transformers.GPT2Config, transformers.GPT2LMHeadModel)
    return resident(tmp_path_factory.mktemp("gpt2"), *given, **GPT2)


TEXTS = [Text("2+3=", " 5"), Text("", "the quick fox"), Text("count aab =", " two"), Text("", "the slow ox!!")]


def examples_for(model: ResidentModel) -> list[Example]:
    return encode_texts(TEXTS, model.tokenizer, 32)


def close(found: Tensor, expected: Tensor) -> None:
    """As close as squares of float32 gradients can be, in which terms cancel."""
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6 * float(expected.max()))


def squared_gradients(model: ResidentModel, examples: Sequence[Example], name: str) -> Tensor:
    """Mean squared gradient of the log-likelihood of the labels, one example after the other, in float64."""
    network = copy.deepcopy(model.network).double()
    parameter = dict(network.named_parameters())[name].requires_grad_(True)
    total = torch.zeros(parameter.shape, dtype=torch.float64)
    for example in examples:
        ids = torch.tensor([example.tokens])
        chances = network(input_ids=ids).logits[0].log_softmax(-1)
        score = sum(chances[i - 1, example.tokens[i]] for i in range(example.first, len(example.tokens)))
        (gradient,) = torch.autograd.grad(score, parameter)
        total += gradient**2
    return total / len(examples)


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.v_proj.weight", "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"],
)
def test_fisher_is_the_mean_of_squared_gradients_of_single_examples(llama: ResidentModel, name: str) -> None:
    examples = examples_for(llama)
    found = collect.collect(llama, examples, Settings(("fisher",)))
    expected = squared_gradients(llama, examples, name)
    close(found[f"fisher/{name}"], expected)
    assert set(found) == {f"fisher/{tensor}" for tensor in llama.tensors}


def test_gram_is_the_second_moment_of_what_is_read_without_padding(llama: ResidentModel) -> None:
    examples = examples_for(llama)
    found = collect.collect(llama, examples, Settings(("gram",)))
    network = llama.network
    rows: dict[str, list[Tensor]] = {"q": [], "head": []}
    for example in examples:
        with torch.no_grad():
            states = network(input_ids=torch.tensor([example.tokens[:-1]]), output_hidden_states=True).hidden_states
            rows["q"].append(network.model.layers[1].input_layernorm(states[1])[0])
            rows["head"].append(states[-1][0])
    for key, name in (("q", "model.layers.1.self_attn.q_proj.weight"), ("head", "lm_head.weight")):
        values = torch.cat(rows[key]).double()
        expected = values.T @ values / len(values)
        torch.testing.assert_close(found[f"gram/{name}"].double(), expected, rtol=1e-4, atol=1e-5)
    assert len(found) == 2 * 7 + 1
    assert found["gram/model.layers.0.mlp.down_proj.weight"].shape == (48, 48)


def test_the_size_of_batches_does_not_matter(llama: ResidentModel) -> None:
    examples = examples_for(llama)
    many, single = (collect.collect(llama, examples, Settings(("gram",), batch_tokens=n)) for n in (4096, 1))
    for name, moment in many.items():
        torch.testing.assert_close(single[name], moment, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_of_one_token_fisher_is_the_product_of_both_second_moments(kind: str, request: pytest.FixtureRequest) -> None:
    """The gradient of W is then an outer product: what it reads times the gradient of what it writes."""
    model: ResidentModel = request.getfixturevalue(kind)
    found = collect.collect(model, [Example((5, 9), 1)], Settings(("fisher", "gram", "gram_out")))
    names = [name.removeprefix("gram_out/") for name in found if name.startswith("gram_out/")]
    assert len(names) == (2 * 7 if kind == "llama" else 2 * 4)
    for name in names:
        product = torch.outer(found[f"gram_out/{name}"].diagonal(), found[f"gram/{name}"].diagonal())
        fisher = found[f"fisher/{name}"]
        assert float(fisher.max()) > 0 or "q_proj" in name or "k_proj" in name
        torch.testing.assert_close(fisher if kind == "llama" else fisher.T, product, rtol=1e-3, atol=1e-9)


def test_gradients_alone_are_the_same(llama: ResidentModel) -> None:
    examples = examples_for(llama)
    alone = collect.collect(llama, examples, Settings(("gram_out",)))
    both = collect.collect(llama, examples, Settings(("fisher", "gram_out")))
    for name, moment in alone.items():
        assert torch.equal(both[name], moment)
    assert not any(parameter.requires_grad for parameter in llama.network.parameters())


def test_layers_stored_in_out_are_marked_and_tied_heads_are_embeddings(gpt2: ResidentModel) -> None:
    examples = examples_for(gpt2)
    found = collect.collect(gpt2, examples, Settings(("fisher", "gram")))
    name = "transformer.h.0.mlp.c_fc.weight"
    assert found[f"transposed/{name}"].shape == (1,)
    assert found[f"gram/{name}"].shape == (16, 16)
    assert found[f"fisher/{name}"].shape == (16, 64)
    assert not any("lm_head" in key or "wte" in key for key in found if not key.startswith("fisher"))
    # Both uses of the tied matrix add to one gradient before it is squared.
    expected = squared_gradients(gpt2, examples, "transformer.wte.weight")
    close(found["fisher/transformer.wte.weight"], expected)


def test_sampled_labels_are_keyed_and_follow_the_model(llama: ResidentModel) -> None:
    examples = examples_for(llama)

    def fisher(labels: Any, seed: int, part: Sequence[Example] = examples) -> Tensor:
        return collect.collect(llama, part, Settings(("fisher",), labels, seed))["fisher/model.norm.weight"]

    first = fisher("sampled", 1)
    assert torch.equal(fisher("sampled", 1), first)
    assert not torch.allclose(fisher("sampled", 2), first)
    assert not torch.allclose(fisher("data", 1), first)
    chances = torch.tensor([0.5, 0.2, 0.0, 0.3])
    drawn = sample(chances.log().expand(20000, 4), 7, 0)
    counts = torch.bincount(drawn, minlength=4) / 20000
    torch.testing.assert_close(counts, chances, rtol=0, atol=0.015)
    assert not torch.equal(sample(chances.log().expand(50, 4), 7, 1), drawn[:50])


def test_repetitions_give_the_same_bits(llama: ResidentModel) -> None:
    settings = Settings(("fisher", "gram", "gram_out"))
    first, second = (collect.collect(llama, examples_for(llama), settings) for _ in range(2))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_progress_reaches_all_tokens_of_both_passes(llama: ResidentModel) -> None:
    seen: list[tuple[int, int]] = []
    examples = examples_for(llama)
    collect.collect(llama, examples, Settings(("fisher", "gram")), lambda done, total: seen.append((done, total)))
    everything = 2 * sum(example.length for example in examples)
    assert seen[-1] == (everything, everything)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_written_files_are_read_by_merges(llama: ResidentModel, tmp_path: Path) -> None:
    build(tmp_path / "model", 3)
    model = Checkpoint.open(tmp_path / "model")
    found = collect.collect(llama, examples_for(llama), Settings(("fisher", "gram")))
    collect.write(found, tmp_path / "s.safetensors", model, "owner/model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "s.safetensors"]
    moments = MomentsFile(tmp_path / "s.safetensors")
    assert moments.kinds == {"fisher", "gram"}
    assert (moments.model, moments.source) == (model.fingerprint(), "owner/model")
    loaded = load_file(tmp_path / "s.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in found.items())
    collect.write(found, tmp_path / "s.safetensors", model, "owner/model")


def test_unsupported_models_and_settings_are_errors(llama: ResidentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, message in (
        ({"kinds": ("hessian",)}, "kinds are 'hessian'; expected some of fisher,gram,gram_out"),
        ({"kinds": ()}, "kinds are ''"),
        ({"labels": "made up"}, "labels are 'made up'; expected data or sampled"),
        ({"batch_tokens": 0}, "batch_tokens and seed are 0 and 0"),
    ):
        with pytest.raises(CollectionError, match=message):
            Settings(**settings)  # type: ignore[arg-type]
    broken = llama.tensors["model.norm.weight"]
    before = broken.clone()
    broken.fill_(float("inf"))
    with pytest.raises(CollectionError, match="is not finite"):
        collect.collect(llama, examples_for(llama), Settings(("gram",)))
    broken.copy_(before)
    needed = sum(collect.sizes(collect.planned(llama, ("gram",))).values())
    monkeypatch.setattr(collect, "available_memory", lambda: needed)
    with pytest.raises(CollectionError, match=r"These statistics need .*B of memory, .* are free on cpu"):
        collect.collect(llama, examples_for(llama), Settings(("gram",)))


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    collect.check_disk(1, tmp_path)
    with pytest.raises(CollectionError, match=r"need 1e\+06 TB, .* [GT]B are free"):
        collect.check_disk(10**18, tmp_path)


def test_sizes_are_those_of_the_file(gpt2: ResidentModel) -> None:
    kinds = ("fisher", "gram", "gram_out")
    found = collect.collect(gpt2, examples_for(gpt2), Settings(kinds))
    sizes = collect.sizes(collect.planned(gpt2, kinds))
    for kind in kinds:
        assert sizes[kind] == sum(t.nbytes for name, t in found.items() if name.startswith(f"{kind}/"))
    assert np.prod(found["gram_out/transformer.h.0.mlp.c_fc.weight"].shape) == 64 * 64


def test_a_model_that_translates_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    network = transformers.T5ForConditionalGeneration(config)
    with pytest.raises(CollectionError, match="T5ForConditionalGeneration is not a causal language model"):
        collect.check_network(network)
