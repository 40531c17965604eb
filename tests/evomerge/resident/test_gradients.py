"""Gradients by coefficients against central differences, on real architectures; nothing is left behind."""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge import plugins
from evomerge.merging.engine import MergeEngine
from evomerge.merging.method import MergeMethod, MethodError
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe
from evomerge.resident.gradients import CoefficientGradient, GradientHooks
from evomerge.resident.places import ModelError, Staged
from evomerge.resident.resident import ResidentModel, load_resident
from search_spaces.base import FloatArray, SearchSpace
from search_spaces.blockwise import Blockwise
from search_spaces.simplex import Simplex
from search_spaces.smooth import Smooth
from search_spaces.tensorwise import Tensorwise
from search_spaces.uniform import Uniform
from tests.architectures.kinds import KINDS
from tests.architectures.models import write_models

Folders = Callable[[str], Mapping[str, Path]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Base and two experts of a kind, written once."""
    written: dict[str, Mapping[str, Path]] = {}

    def of(kind: str) -> Mapping[str, Path]:
        if kind not in written:
            written[kind] = write_models(kind, tmp_path_factory.mktemp("models"))
        return written[kind]

    return of


@dataclass
class Case:
    """A resident network of float64, so that differences are precise, with a search space."""

    kind: str
    recipe: Recipe
    space: SearchSpace
    model: ResidentModel
    engine: MergeEngine

    def merge(self, x: FloatArray) -> Merge:
        return Merge(self.recipe, self.space.decode(x), 3)

    def become(self, x: FloatArray) -> None:
        self.engine.apply(self.merge(x), self.model.tensors)
        self.model.settle()

    def loss(self, part: slice = slice(None), **options: Any) -> Tensor:
        """Negative log-likelihood of some classes or tokens."""
        dtype = next(self.model.network.parameters()).dtype
        inputs = {n: v.to(dtype) if v.is_floating_point() else v for n, v in KINDS[self.kind].inputs().items()}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = self.model.network(**inputs, **options)
        logits = found.logits if "logits" in found else found.last_hidden_state
        return -logits.double().log_softmax(-1)[..., part.start or 0 : part.stop].sum() / logits[..., 0].numel()

    def gradient(self, x: FloatArray, **settings: Any) -> CoefficientGradient:
        self.become(x)
        hooks = GradientHooks(self.model, self.engine, **settings)
        with hooks.of(self.merge(x), self.space.searched) as gradient:
            self.loss(slice(5)).backward()
        return gradient

    def differences(self, x: FloatArray, coordinates: list[int], step: float = 2e-3) -> FloatArray:
        """Central differences of the loss by some coordinates."""

        def value(coordinate: int, change: float) -> float:
            moved = x.copy()
            moved[coordinate] += change
            self.become(moved)
            with torch.no_grad():
                return float(self.loss(slice(5)))

        return np.array([(value(c, step) - value(c, -step)) / (2 * step) for c in coordinates])


def case(
    places: Mapping[str, Path],
    kind: str,
    space: type[SearchSpace] = Uniform,
    method: str = "task_arithmetic",
    *,
    options: Mapping[str, Any] | None = None,
    compute: torch.dtype | None = torch.float64,
    **settings: Any,
) -> Case:
    base, *experts = (Input(name, str(place)) for name, place in places.items())
    method_of: MergeMethod = plugins.load("merge method", method, MergeMethod)
    recipe = Recipe(base, tuple(experts)[: method_of.max_inputs], method, options or {})
    models = open_models(recipe)
    layout = models.base.layout()
    built = space(layout, [e.name for e in recipe.inputs], method_of.parameters, **settings)
    model = load_resident(models.base, models.tokenizer, None, "cpu", compute=compute)
    model.network.config._experts_implementation = "eager"  # torch groups matrix products of experts up to float32
    return Case(kind, recipe, built, model, models.engine())


def check(one: Case, *, most: int = 10, step: float = 2e-3, **settings: Any) -> None:
    """Compare gradients at a random point with differences, in at most so many coordinates."""
    random = np.random.default_rng(2)
    x = random.uniform(0.2, 0.8, one.space.dimension)
    gradient = one.gradient(x, **settings)
    assert gradient.finite
    found = one.space.pull_back(x, gradient.values)
    some = sorted(random.permutation(one.space.dimension)[:most].tolist())
    expected = one.differences(x, some, step)
    assert np.abs(expected).max() > 1e-6
    np.testing.assert_allclose(found[some], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


SPACES: dict[str, tuple[type[SearchSpace], dict[str, Any]]] = {
    "uniform": (Uniform, {}),
    "blockwise": (Blockwise, {}),
    "tensorwise": (Tensorwise, {}),
    "simplex": (Simplex, {}),
    "smooth": (Smooth, {"points": 2}),
    "frozen and tied": (
        Blockwise,
        {"freeze": {"block.0.*": {"weight": [0.3, 0.1]}}, "tie": [["block.1.mlp", "block.1.attention", "embedding"]]},
    ),
}


@pytest.mark.parametrize("space", SPACES)
def test_spaces(space: str, folders: Folders) -> None:
    kind, settings = SPACES[space]
    check(case(folders("Llama"), "Llama", kind, **settings))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear", {}),
        ("linear", {"normalize": False}),
        ("task_arithmetic", {"normalize": True}),
        ("dare_linear", {}),
        ("della_linear", {}),
        ("breadcrumbs", {}),
        ("magnitude_prune", {}),
        ("compeft", {}),
        ("emr", {}),
        ("neg_merge", {}),
        ("tsv_m", {}),
        ("slerp", {}),
        ("nuslerp", {}),
        ("multislerp", {}),
        ("karcher", {}),
        ("variance_corrected", {}),
        ("wise_ft", {}),
        ("model_stock", {}),
        ("mag_max", {}),
        ("ties", {"compat": "peft", "normalize": False}),
    ],
)
def test_methods(method: str, options: Mapping[str, Any], folders: Folders) -> None:
    parameters = plugins.load("merge method", method, MergeMethod).parameters
    ranges = {p.name: [p.default] * 2 for p in parameters if p.name not in ("scale", "t")}
    if "weight" in ranges:
        ranges["weight"] = [0.1, 1.0]
    check(case(folders("Llama"), "Llama", Blockwise, method, options=options, ranges=ranges), most=6)


@pytest.mark.parametrize(
    "kind", ["Llama, tied", "Mixtral", "GPT-2", "GPT-NeoX (Pythia)", "NomicBERT", "T5", "ViT", "OPT"]
)
def test_architectures(kind: str, folders: Folders) -> None:
    """Tied embeddings, fused experts, transposed matrices, renamed, rearranged, shared by two stacks."""
    step = 2e-4 if kind == "OPT" else 2e-3  # its activations have a kink
    check(case(folders(kind), kind, Tensorwise), step=step)


def test_rearranged_tensors_one_by_one(folders: Folders) -> None:
    one = case(folders("NomicBERT"), "NomicBERT", Tensorwise)
    staged = [n for n, name in enumerate(one.space.names) if any(t in name for t in one.model.staged)]
    x = np.full(one.space.dimension, 0.4)
    found = one.space.pull_back(x, one.gradient(x).values)
    expected = one.differences(x, staged)
    assert np.abs(expected).min() > 0
    np.testing.assert_allclose(found[staged], expected, rtol=1e-3)


@pytest.mark.parametrize("kind", ["Llama", "Mixtral", "GPT-2", "OPT"])
def test_checkpointing_changes_memory_only(kind: str, folders: Folders) -> None:
    """OPT has dropout in its layers, which training mode would switch on."""
    one = case(folders(kind), kind, Blockwise)
    x = np.full(one.space.dimension, 0.4)
    plain, again = (one.gradient(x, checkpointing=checkpointing).values for checkpointing in (False, True))
    for name, values in plain.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-9)
    assert not any("forward" in vars(module) for module in one.model.network.modules())
    layers: list[int] = []
    handle = one.model.network.get_input_embeddings().register_forward_hook(lambda *_: layers.append(1))
    one.gradient(x, checkpointing=True)
    handle.remove()
    assert layers == [1]  # only layers are computed twice


def test_checkpointed_layers_are_recomputed_without_a_cache(folders: Folders) -> None:
    """A recomputed layer would write the same tokens to a cache twice."""
    one = case(folders("Llama"), "Llama", Blockwise)
    x = np.full(one.space.dimension, 0.4)
    one.become(x)
    calls: list[int] = []
    caches: list[Any] = []
    norm = one.model.network.model.layers[0].input_layernorm
    handles = [
        norm.register_forward_hook(lambda *_: calls.append(1)),
        one.model.network.register_forward_hook(lambda *given: caches.append(given[2].past_key_values)),
    ]
    found = []
    for checkpointing in (False, True):
        with GradientHooks(one.model, one.engine, checkpointing=checkpointing).of(one.merge(x)) as gradient:
            one.loss(use_cache=True).backward()
        found.append(gradient.values["weight"])
    assert len(calls) == 1 + 2
    assert caches[0].get_seq_length() > 0
    assert caches[1].get_seq_length() == 0
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    for handle in handles:
        handle.remove()


def test_networks_without_layers_to_recompute_are_refused_by_name(folders: Folders) -> None:
    one = case(folders("Llama"), "Llama")
    one.model.network.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="cannot recompute the layers of LlamaForCausalLM"):
        one.gradient(one.space.default(), checkpointing=True)


def test_backward_passes_add_up(folders: Folders) -> None:
    one = case(folders("Llama"), "Llama", Blockwise)
    x = np.full(one.space.dimension, 0.4)
    whole = one.gradient(x).values["weight"]
    hooks = GradientHooks(one.model, one.engine)
    with hooks.of(one.merge(x)) as gradient:
        for part in (slice(2), slice(2, 5)):
            one.loss(part).backward()
    np.testing.assert_allclose(gradient.values["weight"], whole, rtol=1e-4, atol=1e-7)
    with hooks.of(one.merge(x)) as gradient:
        pass
    assert not gradient.values["weight"].any()


def test_weights_of_bfloat16(folders: Folders) -> None:
    """The same as from gradients of bfloat16 that are kept and contracted in float64."""
    one = case(folders("Llama"), "Llama", Tensorwise, compute=torch.bfloat16)
    x = np.full(one.space.dimension, 0.4)
    found = one.gradient(x).values["weight"]
    one.model.network.requires_grad_(True)
    one.loss(slice(5)).backward()
    files = [load_file(place / "model.safetensors") for place in folders("Llama").values()]
    kept = dict(one.model.network.named_parameters())
    expected = [
        [
            float((kept[name].grad.double() * (expert[name].double() - files[0][name].double())).sum())
            for expert in files[1:]
        ]
        for name in one.space.groups
    ]
    assert kept[one.space.groups[0]].grad.dtype == torch.bfloat16
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_an_input_that_lacks_a_tensor(folders: Folders) -> None:
    places = dict(folders("Llama"))
    lacking = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(places["b"] / "model.safetensors")
    del tensors[lacking]
    one = case(folders("Llama"), "Llama", Tensorwise, "linear")
    files = [load_file(place / "model.safetensors") for place in places.values()]
    files[2] = tensors
    inputs = [_Tensors(file) for file in files]
    one.engine = MergeEngine(inputs[0], inputs[1:], names=["a", "b"])
    check(one)
    gradient = one.gradient(np.full(one.space.dimension, 0.4)).values["weight"]
    assert gradient[one.space.groups.index(lacking), 1] == 0


class _Tensors(dict[str, Tensor]):
    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self)

    def mergeable(self, name: str) -> bool:
        return self[name].is_floating_point()

    def tensor(self, name: str) -> Tensor:
        return self[name]


def trace(network: Any) -> list[Any]:
    """What a gradient might leave behind: flags, gradients, hooks, modes, own attributes."""
    return [
        *(
            (p.requires_grad, p.grad, p._post_accumulate_grad_hooks or None, p._backward_hooks)
            for p in network.parameters()
        ),
        *((m.training, sorted(vars(m)), len(m._forward_hooks)) for m in network.modules()),
    ]


def test_nothing_is_left_behind(folders: Folders) -> None:
    one = case(folders("Mixtral"), "Mixtral", Blockwise)
    x = one.space.default()
    before = trace(one.model.network)
    weights = {name: tensor.clone() for name, tensor in one.model.network.state_dict().items()}
    one.become(x)
    merged = {name: tensor.clone() for name, tensor in one.model.network.state_dict().items()}
    one.gradient(x, checkpointing=True)
    assert trace(one.model.network) == before
    assert all(torch.equal(tensor, merged[name]) for name, tensor in one.model.network.state_dict().items())
    assert any(not torch.equal(weights[name], merged[name]) for name in merged)
    with contextlib.suppress(ZeroDivisionError), GradientHooks(one.model, one.engine).of(one.merge(x)):
        one.loss().backward()
        raise ZeroDivisionError
    assert trace(one.model.network) == before


def changed(
    places: Mapping[str, Path], folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Path]:
    """Copies of the models, the experts with other tensors."""
    copies = {}
    for name, place in places.items():
        copies[name] = Path(shutil.copytree(place, folder / name))
        if name != "base":
            tensors = load_file(place / "model.safetensors")
            save_file({**tensors, **change(tensors)}, copies[name] / "model.safetensors", {"format": "pt"})
    return copies


def test_only_searched_weights_that_differ_require_gradients(folders: Folders, tmp_path: Path) -> None:
    still = "model.layers.0.mlp.up_proj.weight"
    base = load_file(folders("Llama")["base"] / "model.safetensors")
    places = changed(folders("Llama"), tmp_path, lambda _: {still: base[still]})
    one = case(places, "Llama", Blockwise, freeze={"block.1.mlp": "default", "embedding": {"weight": 0.5}})
    kept: list[str] = []
    with GradientHooks(one.model, one.engine).of(one.merge(one.space.default()), one.space.searched):
        kept += [name for name, parameter in one.model.network.named_parameters() if parameter.requires_grad]
        one.loss().backward()
        assert all(parameter.grad is None for parameter in one.model.network.parameters())
    names = dict(one.model.network.named_parameters())
    assert still not in kept
    assert set(kept) == {n for n in names if "layers.1.mlp" not in n and "embed_tokens" not in n and n != still}


def test_nothing_to_search_needs_no_gradient(folders: Folders) -> None:
    one = case(folders("Llama"), "Llama", freeze={"all": "default"})
    with GradientHooks(one.model, one.engine).of(one.merge(np.zeros(0)), one.space.searched) as gradient:
        assert not one.loss().requires_grad
    assert not gradient.values["weight"].any()


def test_gradients_that_are_not_finite_are_reported(folders: Folders) -> None:
    one = case(folders("Llama"), "Llama", Blockwise)
    x = one.space.default()
    one.become(x)
    with GradientHooks(one.model, one.engine).of(one.merge(x)) as gradient:
        (one.loss() * float("inf")).backward()
    assert not gradient.finite
    assert "model.layers.0.mlp.up_proj.weight" in gradient.not_finite
    assert not np.isfinite(gradient.values["weight"]).all()


def test_methods_without_gradients_are_refused(folders: Folders) -> None:
    one = case(folders("Llama"), "Llama", method="lora_linear")
    with pytest.raises(MethodError, match="lora_linear has no gradient"):
        one.gradient(one.space.default())


def test_conversions_that_compute_are_refused_by_name(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    one = case(folders("NomicBERT"), "NomicBERT")
    made = Staged.made
    monkeypatch.setattr(Staged, "made", lambda self: [(name, live, value * 2) for name, live, value in made(self)])
    with pytest.raises(ModelError, match=r"computes .* from .*Wqkv.* freeze"):
        one.gradient(one.space.default())


def test_running_statistics_are_refused_by_name(folders: Folders, tmp_path: Path) -> None:
    places = changed(
        folders("ResNet"), tmp_path, lambda tensors: {n: t + 0.1 for n, t in tensors.items() if "_var" in n}
    )
    one = case(places, "ResNet")
    with pytest.raises(ModelError, match=r"running_var is no parameter of ResNet.* freeze its group"):
        one.gradient(one.space.default())
    check(case(places, "ResNet", Tensorwise, freeze={"*running_var": "default"}), step=1e-4)
