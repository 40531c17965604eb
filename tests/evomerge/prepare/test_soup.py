"""Learned soups: the gradient against finite differences and autograd, what is learned, and that it is repeatable."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from evomerge.merging import tiles
from evomerge.merging.recipe_models import open_models
from evomerge.prepare.calibration.data import Example
from evomerge.prepare.soup import Settings, Soup, SoupError, learn
from evomerge.recipe import Input, Recipe
from evomerge.resident.resident import load_resident
from search_spaces.base import FloatArray
from tests.evaluators.tiny_llama import LLAMA, build

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
KINDS: dict[str, tuple[Any, ...]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {**LLAMA, "initializer_range": 0.2}),
    "tied": (transformers.GPT2Config, transformers.GPT2LMHeadModel, GPT2),
}
#: Of two lengths, with labels that begin at other places; the fourth is there twice.
EXAMPLES = [
    Example((5, 9, 20, 31, 8), 1),
    Example((7, 30, 12, 44, 50), 3),
    Example((11, 40, 41), 2),
    Example((60, 13, 25), 1),
    Example((60, 13, 25), 1),
]
TOKENS = 8


def folders(root: Path, kind: str) -> list[Path]:
    config, network, own = KINDS[kind]
    for seed in range(4):
        build(root / str(seed), seed, config, network, **own)
    return [root / str(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return folders(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return folders(tmp_path_factory.mktemp("tied"), "tied")


def soup_of(models: Sequence[Path], *, by_layer: bool = False, dtype: torch.dtype = torch.float64) -> Soup:
    """The first model is the base; in float64 the network adds no rounding to that of merges."""
    base, *inputs = [Input(f"m{number}", str(path)) for number, path in enumerate(models)]
    recipe = Recipe(base, tuple(inputs), "linear")
    sources = open_models(recipe)
    resident = load_resident(sources.base, sources.tokenizer, dtype, "cpu")
    return Soup(recipe, sources, resident, sources.engine(dtype=dtype), by_layer=by_layer)


def nothing(tokens: int) -> None:
    """What counts tokens and counts none."""


def softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(1, keepdims=True))


def mean_loss(soup: Soup, logits: FloatArray) -> float:
    return float(soup.losses(softmax(logits), EXAMPLES, TOKENS, nothing).mean())


def loss_gradient(soup: Soup, logits: FloatArray) -> FloatArray:
    """By the logits: the slope by the weights through the softmax, as a matrix of partial derivatives."""
    weights = softmax(logits)
    slope = soup.slope(weights, 1.0, EXAMPLES, TOKENS, nothing)
    return np.stack([(np.diag(a) - np.outer(a, a)) @ d for a, d in zip(weights, slope.weights, strict=True)])


def central(soup: Soup, logits: FloatArray, place: tuple[int, int], step: float = 1e-2) -> float:
    """The derivative by one logit, by central differences of fourth order: merges are rounded to float32."""

    def at(distance: float) -> float:
        moved = logits.copy()
        moved[place] += distance
        return mean_loss(soup, moved)

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_gradient_is_that_of_finite_differences(kind: str, request: pytest.FixtureRequest) -> None:
    soup = soup_of(request.getfixturevalue(kind))
    logits = np.array([[1.0, 0.6, 1.3]])
    expected = np.array([[central(soup, logits, (0, column)) for column in range(3)]])
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(loss_gradient(soup, logits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_gradient_by_tensor_is_that_of_finite_differences(kind: str, request: pytest.FixtureRequest) -> None:
    soup = soup_of(request.getfixturevalue(kind), by_layer=True)
    groups = list(soup.groups)
    logits = np.random.default_rng(3).normal(size=(len(groups), 3)) * 0.3
    found = loss_gradient(soup, logits)
    embeddings = next(name for name in groups if "wte" in name or "embed_tokens" in name)
    for row in (groups.index(embeddings), len(groups) // 2, len(groups) - 1):
        for column in range(3):
            expected = central(soup, logits, (row, column))
            assert found[row, column] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_tensor_that_the_file_holds_twice_has_a_gradient_for_each(tmp_path: Path) -> None:
    """The configuration ties the two, but once they differ, transformers loads each as it is: so does the soup."""
    config = {**LLAMA, "initializer_range": 0.2, "tie_word_embeddings": True}
    for seed in range(3):
        built = build(tmp_path / str(seed), seed, **config)
        tensors = {name: tensor.contiguous().clone() for name, tensor in built.network.state_dict().items()}
        save_file(tensors, tmp_path / str(seed) / "model.safetensors", metadata={"format": "pt"})
    models = [tmp_path / str(seed) for seed in range(3)]
    soup = soup_of(models, by_layer=True)
    groups = list(soup.groups)
    logits = np.random.default_rng(3).normal(size=(len(groups), 2)) * 0.3
    found = loss_gradient(soup, logits)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert soup.groups[name] == (name,)
        row = groups.index(name)
        assert found[row, 0] == pytest.approx(central(soup, logits, (row, 0)), rel=1e-4, abs=1e-5)
    whole = soup_of(models)
    logits = np.array([[0.2, -0.3]])
    assert loss_gradient(whole, logits)[0, 0] == pytest.approx(central(whole, logits, (0, 0)), rel=1e-4, abs=1e-5)


def test_the_slope_is_the_product_of_gradient_and_model_in_float64(llama: list[Path]) -> None:
    found = soup_of(llama).slope(np.array([[0.0, 1.0, 0.0]]), 1.3, EXAMPLES, 1, nothing)
    networks = [transformers.AutoModelForCausalLM.from_pretrained(folder).double() for folder in llama[1:]]
    loss = torch.zeros((), dtype=torch.float64)
    for example in EXAMPLES:
        ids = torch.tensor([example.tokens])
        scores = networks[1](input_ids=ids[:, :-1]).logits[0, example.first - 1 :]
        chances = (1.3 * scores).log_softmax(-1)
        loss = loss - chances.gather(1, ids[0, example.first :, None]).mean() / len(EXAMPLES)
    loss.backward()  # type: ignore[no-untyped-call]
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    for network, product in zip(networks, found.weights[0], strict=True):
        pairs = zip(networks[1].parameters(), network.parameters(), strict=True)
        expected = sum(float((own.grad * other.detach()).sum()) for own, other in pairs)
        assert product == pytest.approx(expected, rel=1e-10)


def test_tiles_and_batches_do_not_change_the_gradient(llama: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    soup, weights = soup_of(llama), np.array([[0.2, 0.5, 0.3]])
    whole = soup.slope(weights, 1.0, EXAMPLES, TOKENS, nothing)
    again = soup.slope(weights, 1.0, EXAMPLES, TOKENS, nothing)
    assert np.array_equal(again.weights, whole.weights), "no gradient is left over from the call before"
    monkeypatch.setattr(tiles, "TILE", 700)
    parts = soup_of(llama).slope(weights, 1.0, EXAMPLES, 1, nothing)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-12)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)


def test_the_loss_is_the_mean_over_the_labels_of_an_example(llama: list[Path]) -> None:
    soup = soup_of(llama)
    found = soup.losses(np.array([[0.0, 1.0, 0.0]]), EXAMPLES, TOKENS, nothing)
    network = transformers.AutoModelForCausalLM.from_pretrained(llama[2]).double()
    for example, loss in zip(EXAMPLES, found, strict=True):
        with torch.no_grad():
            chances = network(input_ids=torch.tensor([example.tokens])).logits[0].log_softmax(-1)
        labels = range(example.first, len(example.tokens))
        expected = -sum(float(chances[place - 1, example.tokens[place]]) for place in labels) / len(labels)
        assert loss == pytest.approx(expected, rel=1e-6)


def test_the_derivative_by_the_temperature(llama: list[Path]) -> None:
    soup, weights = soup_of(llama), np.array([[0.2, 0.5, 0.3]])
    at, up, down = (soup.slope(weights, t, EXAMPLES, TOKENS, nothing) for t in (1.2, 1.201, 1.199))
    assert at.temperature == pytest.approx((up.loss - down.loss) / 0.002, rel=1e-5)
    assert at.loss != pytest.approx(soup.slope(weights, 1.0, EXAMPLES, TOKENS, nothing).loss, rel=1e-3)


def own_texts(folder: Path, count: int) -> list[Example]:
    """What a model itself says with its largest scores: no other model knows it better."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for start in range(5, 5 + count):
        tokens = [start]
        for _ in range(6):
            with torch.no_grad():
                tokens.append(int(network(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        found.append(Example(tuple(tokens), 1))
    return found


@pytest.mark.parametrize("by_layer", [False, True])
def test_weights_move_to_the_model_that_knows_the_data(llama: list[Path], by_layer: bool) -> None:
    soup = soup_of(llama, by_layer=by_layer, dtype=torch.float32)
    examples = own_texts(llama[3], 12)
    learned = learn(soup, examples, Settings(epochs=8, batch_examples=4, learning_rate=0.1, by_layer=by_layer), nothing)
    mean = learned.weights.mean(0)
    assert mean.argmax() == 2
    assert mean[2] > (0.35 if by_layer else 0.5)
    assert learned.losses[-1] < learned.losses[0]
    assert learned.temperature == 1.0
    np.testing.assert_allclose(learned.weights.sum(1), 1.0, atol=2e-5)


def test_the_steps_are_those_of_adam_without_decay(llama: list[Path]) -> None:
    """Against Adam's own formulas (Kingma and Ba, 2015, algorithm 1), from equal weights on."""
    soup = soup_of(llama)
    logits, mean, square = np.ones((1, 3)), np.zeros((1, 3)), np.zeros((1, 3))
    for step in range(1, 5):
        slope = loss_gradient(soup, logits)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        logits = logits - 0.2 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    settings = Settings(epochs=4, learning_rate=0.2, batch_examples=len(EXAMPLES), batch_tokens=TOKENS)
    learned = learn(soup, EXAMPLES, settings, nothing)
    np.testing.assert_allclose(learned.weights, softmax(logits), atol=6e-6)


def test_a_temperature_is_learned_where_it_is_asked_for(llama: list[Path]) -> None:
    soup = soup_of(llama, dtype=torch.float32)
    learned = learn(soup, EXAMPLES, Settings(epochs=2, temperature=True), nothing)
    sharper = soup.slope(np.full((1, 3), 1 / 3), 1.0, EXAMPLES, TOKENS, nothing).temperature < 0
    assert (learned.temperature > 1) == sharper
    assert abs(learned.temperature - 1) > 0.05


def test_the_seed_orders_the_examples_and_threads_stay_within_the_rounding(llama: list[Path]) -> None:
    def run(seed: int, threads: int = 1) -> FloatArray:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            soup = soup_of(llama, by_layer=True, dtype=torch.float32)
            return learn(soup, EXAMPLES, Settings(epochs=2, batch_examples=2, seed=seed), nothing).weights
        finally:
            torch.set_num_threads(before)

    first = run(1)
    assert np.array_equal(run(1), first)
    assert not np.array_equal(run(2), first)
    np.testing.assert_allclose(run(1, threads=2), first, rtol=0, atol=1.5e-5)


def test_invalid_settings_are_errors(llama: list[Path]) -> None:
    for settings, message in (
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"batch_examples": 0}, "batch_examples is 0"),
        ({"learning_rate": float("nan")}, "learning rate is nan"),
        ({"learning_rate": 0.0}, "learning rate is 0.0"),
        ({"seed": -1}, "seed -1"),
    ):
        with pytest.raises(SoupError, match=message):
            Settings(**settings)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_ends_it(llama: list[Path], tmp_path: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(llama[1])
    network.lm_head.weight.data.mul_(1e38)  # finite weights, scores beyond float32
    network.save_pretrained(tmp_path / "loud")
    soup = soup_of([llama[0], tmp_path / "loud", llama[2]], dtype=torch.float32)
    with pytest.raises(SoupError, match=r"The loss is (nan|inf) in epoch 1"):
        learn(soup, EXAMPLES, Settings(), nothing)
