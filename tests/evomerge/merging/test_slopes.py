"""Slopes of single tensors: elections against autograd at fixed signs, edges, inputs that lack tensors, refusals."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.method import Bounds, Combination, MergeMethod, MethodError, Shared, merge_method
from evomerge.merging.slopes import gradient_parameters, why_no_gradient
from evomerge.merging.tiles import Workers, dot
from evomerge.recipe import Input, Recipe
from tests.contracts.merge_method import make_engine, make_merge, merged, random_models

WEIGHTS = (0.3, 0.5, 0.4)
SHAPE = (20, 37)


def slopes(method: str, models: Sequence[Tensor], gradient: Tensor, values: Mapping[str, Any], **given: Any) -> Any:
    """Slopes of one tensor's coefficients. models: the base first."""
    engine = make_engine({"x": models[0]}, [{"x": tensor} for tensor in models[1:]])
    return engine.slopes(make_merge(method, len(models) - 1, values, **given))("x", gradient)


def case(seed: int = 0, n_inputs: int = 3) -> tuple[list[Tensor], Tensor]:
    """Models whose deltas are exact, and a gradient."""
    _, *deltas = random_models(seed, n_inputs, torch.float32, SHAPE)
    random = torch.Generator().manual_seed(seed + 1)
    return [torch.zeros(SHAPE), *deltas], torch.randn(SHAPE, generator=random)


def thinned(
    method: str, models: Sequence[Tensor], values: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Tensor]:
    """Each delta as the method trims it: what it merges alone, with weight 1 and without a normalized sum."""
    n_inputs = len(models) - 1
    alone = [{**values, "scale": 1.0, "weight": row} for row in np.eye(n_inputs).tolist()]
    return [
        merged(method, models[0], models[1:], one, options={**options, "normalize": False}).double() for one in alone
    ]


def by_autograd(
    parts: Sequence[Tensor], gradient: Tensor, weights: Sequence[float], scale: float, *, normalize: bool, peft: bool
) -> tuple[Tensor, Tensor]:
    """Derivatives by weights and scale of the textbook formula, with signs from the weights as they are."""
    votes = sum(part * (1.0 if peft else weight) for part, weight in zip(parts, weights, strict=True))
    sign = torch.where(torch.as_tensor(votes) >= 0, 1.0, -1.0).double()
    agree = [(part * sign > 0).double() for part in parts]
    weight = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    scaled = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    total = sum(w * mask * part for w, mask, part in zip(weight, agree, parts, strict=True))
    if normalize:
        divisor = sum(mask * (1.0 if peft else w) for w, mask in zip(weight, agree, strict=True))
        total = torch.as_tensor(total) / torch.where(torch.as_tensor(divisor) > 0, divisor, 1.0)
    by_weight, by_scale = torch.autograd.grad((gradient.double() * total * scaled).sum(), (weight, scaled))
    return by_weight, by_scale


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("method", "options", "density"),
    [
        ("ties", {}, 0.4),
        ("ties", {"compat": "peft"}, 0.4),
        ("ties", {"rescale": "mergekit"}, 0.4),
        ("dare_ties", {}, 0.6),
        ("dare_ties", {"compat": "peft", "rescale": "mergekit"}, 0.6),
        ("della", {}, 0.5),
        ("breadcrumbs_ties", {}, 0.5),
        ("breadcrumbs_ties", {"compat": "mergekit"}, 0.5),
    ],
)
def test_elections_are_differentiated_at_fixed_signs(
    method: str, options: dict[str, Any], density: float, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, gradient = case()
    values = {"weight": WEIGHTS, "density": [density] * 3, "scale": 0.7}
    parts = thinned(method, models, values, options)
    peft = options.get("compat") == "peft"
    expected = by_autograd(parts, gradient, WEIGHTS, 0.7, normalize=normalize, peft=peft)
    monkeypatch.setattr(tiles, "TILE", 101)
    found = slopes(method, models, gradient, values, options={**options, "normalize": normalize})
    np.testing.assert_allclose(found["weight"], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["scale"], [expected[1]], rtol=1e-4, atol=1e-5)
    assert set(found) == {"weight", "scale"}  # the density has no gradient


def test_signs_of_the_whole_model_and_negative_weights() -> None:
    models, gradient = case(3)
    values = {"weight": (0.3, -0.5, 0.4), "density": [1.0] * 3}
    turned = [sign * delta.double() for sign, delta in zip((1, -1, 1), models[1:], strict=True)]
    expected, _ = by_autograd(turned, gradient, (0.3, 0.5, 0.4), 1.0, normalize=True, peft=False)
    found = slopes("ties", models, gradient, values)["weight"]
    np.testing.assert_allclose(found, expected * torch.tensor([1, -1, 1]), rtol=1e-4, atol=1e-5)


def test_consensus_is_differentiated_at_its_masks() -> None:
    models, gradient = case(4)
    values = {"weight": WEIGHTS, "density": [1.0] * 3, "threshold": [6.0] * 3, "scale": 0.7}
    whole = merged("ties", models[0], models[1:], {"weight": WEIGHTS, "density": [1.0] * 3}).double()
    needs = sum((delta.double().abs() > 6.0 * (whole - delta.double()).abs()).int() for delta in models[1:])
    mask = (torch.as_tensor(needs) >= 2).double()
    assert 0.1 < float(mask.mean()) < 0.9
    parts = [delta.double() for delta in models[1:]]
    expected = by_autograd(parts, gradient * mask, WEIGHTS, 0.7, normalize=True, peft=False)
    found = slopes("consensus_ties", models, gradient, values)
    np.testing.assert_allclose(found["weight"], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["scale"], [expected[1]], rtol=1e-4, atol=1e-5)


def test_nearswap_moves_what_is_further_away() -> None:
    models, gradient = case(5, 1)
    t = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    moved = torch.minimum(torch.maximum(models[1].double(), models[0].double() - t), models[0].double() + t)
    (expected,) = torch.autograd.grad((gradient.double() * moved).sum(), t)
    np.testing.assert_allclose(slopes("nearswap", models, gradient, {"t": 0.05})["t"], [expected], rtol=1e-4)


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear", "magnitude_prune", "della_linear", "breadcrumbs"])
@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0)])
def test_copies_of_a_model_have_the_slopes_of_their_neighbors(method: str, weights: tuple[float, ...]) -> None:
    """At weights of 0 no input contributes, but the gradient says which one should."""
    models, gradient = case(6)
    found, beside = (
        slopes(method, models, gradient, {"weight": tuple(w + away for w in weights)})["weight"] for away in (0, 0.01)
    )
    assert np.abs(found).min() > 0
    np.testing.assert_allclose(found, beside, rtol=1e-3)


def test_elections_without_weights_rise_from_nothing() -> None:
    models, gradient = case(7)
    given = {"weight": (0.0, 0.0, 0.0), "density": [1.0] * 3}
    found = slopes("ties", models, gradient, given, options={"normalize": False})["weight"]
    parts = [delta.double() for delta in models[1:]]
    expected, _ = by_autograd(parts, gradient, (1e-3,) * 3, 1.0, normalize=False, peft=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_inputs_that_lack_a_tensor_have_no_slope_there() -> None:
    models, gradient = case(8)
    named = [{"x": models[0], "y": models[0]}, {"x": models[1], "y": models[1]}, {"x": models[2]}, {"y": models[3]}]
    engine = make_engine(named[0], named[1:])
    merge = make_merge("linear", 3, {"weight": WEIGHTS})
    found = engine.slopes(merge)("x", gradient)["weight"]
    assert found[2] == 0
    two = slopes("linear", models[:3], gradient, {"weight": WEIGHTS[:2]})["weight"]
    np.testing.assert_allclose(found[:2], two, rtol=1e-12)
    assert engine.slopes(merge)("y", gradient)["weight"][1] == 0


def test_tensors_that_no_coefficient_changes() -> None:
    models, gradient = case(9, 2)
    engine = make_engine({"x": models[0], "y": models[1]}, [{"x": models[0], "y": models[2]}] * 2)
    found = engine.slopes(make_merge("task_arithmetic", 2, {"weight": (0.5, 0.2)}))
    assert (found.still("x"), found.still("y")) == (True, False)
    assert not found("x", gradient)["weight"].any()


def test_a_gradient_that_is_not_finite_gives_slopes_that_are_not() -> None:
    models, gradient = case(10)
    for bad in (float("nan"), float("inf")):
        gradient[3, 5] = bad
        assert not np.isfinite(slopes("task_arithmetic", models, gradient, {"weight": WEIGHTS})["weight"]).any()


def test_small_deltas_to_large_weights_are_precise() -> None:
    """The product of a gradient with weights would lose the digits of a delta."""
    generator = torch.Generator().manual_seed(0)
    base = 100 + torch.randn(300_000, generator=generator)
    expert = base + 1e-3 * torch.randn(300_000, generator=generator)
    gradient = torch.randn(300_000, generator=generator)
    found = slopes("task_arithmetic", [base, expert], gradient, {"weight": (0.5,)})["weight"]
    expected = (gradient.double() * (expert.double() - base.double())).sum()
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_dot_products_do_not_depend_on_the_number_of_threads() -> None:
    a, b = torch.randn(2, 700_001, generator=torch.Generator().manual_seed(0))
    found = [Workers(threads).map(lambda pair: dot(*pair), [(a, b)])[0] for threads in (1, 2, 5)]
    assert found[0] == found[1] == found[2]
    assert abs(found[0] - float(a.double() @ b.double())) < 1e-5 * 700_001**0.5


def test_gradients_of_another_shape_are_refused() -> None:
    models, gradient = case(11)
    with pytest.raises(ValueError, match=r"x: expected a gradient of shape \(20, 37\); got \(37, 20\)"):
        slopes("task_arithmetic", models, gradient.T, {"weight": WEIGHTS})


def recipe(method: str, **options: Any) -> Recipe:
    return Recipe(Input("base", "base"), (Input("a", "a"), Input("b", "b")), method, options)


def test_methods_say_by_what_they_are_differentiated() -> None:
    assert gradient_parameters(recipe("ties")) == ("weight", "scale")
    assert gradient_parameters(recipe("mag_max")) == ("scale",)
    assert gradient_parameters(recipe("nuslerp", flatten=False)) == ()
    assert why_no_gradient(recipe("nuslerp")) is None
    reason = why_no_gradient(recipe("nuslerp", flatten=False))
    assert reason is not None
    assert "flatten: false" in reason
    assert (why_no_gradient(recipe("regmean")) or "").startswith("regmean has no gradient")
    models, _ = case(12, 2)
    engine = make_engine({"x": models[0]}, [{"x": tensor} for tensor in models[1:]])
    with pytest.raises(MethodError, match="no gradient by its coefficients: nuslerp"):
        engine.slopes(make_merge("nuslerp", 2, {"weight": (0.5, 0.2)}, options={"flatten": False}))


def test_a_new_method_is_differentiated_by_what_it_is_linear_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def method(**declared: Any) -> MergeMethod:
        @merge_method(operates_on="deltas", reference="https://example.org", **declared)
        def mine(deltas: Sequence[Tensor], *, scale: Annotated[Shared, Bounds(1.0, 0.0, 2.0)]) -> Tensor:
            return deltas[0].mul_(scale)

        return mine

    linear, other = method(linear_in=("scale",)), method()
    assert linear.gradient.parameters == ("scale",)
    assert linear.why_no_gradient({}) is None
    assert (other.why_no_gradient({}) or "").startswith("mine does not declare")
    monkeypatch.setattr("evomerge.plugins.load", lambda *_: linear)
    models, gradient = case(13, 1)
    found = slopes("mine", models, gradient, {"scale": 0.3})["scale"]
    np.testing.assert_allclose(found, [(gradient.double() * models[1].double()).sum()], rtol=1e-5)


def test_a_rule_must_name_parameters_of_the_method() -> None:
    with pytest.raises(TypeError, match="mine has gradient 'weight', which is not one of its parameters"):

        @merge_method(operates_on="deltas", reference="https://example.org", gradient=Combination(("weight",)))
        def mine(deltas: Sequence[Tensor]) -> Tensor:
            return deltas[0]
