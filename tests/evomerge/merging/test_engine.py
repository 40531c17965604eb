from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.engine import MergeEngine, MergeError
from evomerge.merging.method import MethodError
from evomerge.recipe import Merge
from search_spaces.base import CoefficientTable
from tests.contracts.merge_method import NAMES, make_engine, make_merge, merged, random_models

GROUPS = {"block": ("a", "b"), "rest": ("c",)}


def models(dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """Base and three inputs of three tensors and an integer one."""
    made = [{"a": t, "b": t * 2, "ids": torch.arange(3), "c": t[:2] * 3} for t in random_models(0, 3, dtype)]
    for number, model in enumerate(made):
        model["ids"] = model["ids"] + number
    return made


def engine_of(made: list[dict[str, Tensor]], **settings: Any) -> MergeEngine:
    return make_engine(made[0], made[1:], **settings)


def two_groups(weights: list[list[float]], method: str = "task_arithmetic", **given: Any) -> Merge:
    merge = make_merge(method, 3, {"weight": [0.0] * 3}, groups=GROUPS, **given)
    return Merge(merge.recipe, CoefficientTable(GROUPS, {"weight": np.array(weights)}), merge.seed)


def resident(made: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in made[0].items()}


def same(into: Mapping[str, Tensor], engine: MergeEngine, merge: Merge) -> bool:
    return all(torch.equal(into[name], tensor) for name, tensor in engine.stream(merge))


W = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]


def test_only_groups_whose_coefficients_changed_are_written_from_the_originals() -> None:
    made = models(torch.bfloat16)
    engine, into = engine_of(made), resident(made)
    assert engine.apply(two_groups(W), into) == ("a", "b", "c")
    assert engine.apply(two_groups(W), into) == ()
    changed = two_groups([W[0], [0.4, 0.5, 0.7]])
    into["a"].fill_(7)  # so that a needless write is seen
    assert engine.apply(changed, into) == ("c",)
    assert bool((into["a"] == 7).all())
    into["a"].copy_(dict(engine.stream(changed))["a"])
    assert same(into, engine, changed)
    assert engine.apply(two_groups(W), into) == ("c",)
    assert same(into, engine, two_groups(W))


def test_another_method_option_place_or_seed_writes_everything() -> None:
    made = models()
    engine, into = engine_of(made), resident(made)
    everything = ("a", "b", "c")
    engine.apply(two_groups(W), into)
    assert engine.apply(two_groups(W, seed=1), into) == ()  # not a random method
    assert engine.apply(two_groups(W, options={"normalize": True}), into) == everything
    assert engine.apply(two_groups(W, "dare_linear"), into) == everything
    assert engine.apply(two_groups(W, "dare_linear", seed=1), into) == everything
    assert same(into, engine, two_groups(W, "dare_linear", seed=1))
    assert engine.apply(two_groups(W, "dare_linear", seed=1), {**into, "b": into["b"].clone()}) == ("b",)
    assert engine.apply(two_groups(W, "dare_linear", seed=1), resident(made)) == everything


def test_after_an_error_everything_is_written_again() -> None:
    made = models()
    made[1]["c"] += 10
    engine, into = engine_of(made), resident(made)
    engine.apply(two_groups(W), into)
    with pytest.raises(MergeError, match=r"The merge has \d+ non-finite values in c \(dtype float32\)\."):
        engine.apply(two_groups([[0, 0, 1], [3e38, 3e38, 3e38]]), into)
    assert engine.apply(two_groups(W), into) == ("a", "b", "c")
    assert same(into, engine, two_groups(W))


@pytest.mark.fault("F14", "a merge overflows in float16", "tensor, type and remedy are named")
def test_a_value_that_overflows_in_float16_names_the_tensor_and_the_way_out() -> None:
    base, expert = torch.full((5,), 100.0), torch.full((5,), 60000.0)
    merge = {"weight": [1.2]}
    assert bool(torch.isfinite(merged("task_arithmetic", base, [expert], merge)).all())
    with pytest.raises(MergeError, match=r"5 non-finite values in x \(dtype float16\)\. If .* overflow, try dtype bf"):
        merged("task_arithmetic", base, [expert], merge, dtype=torch.float16)
    with pytest.raises(MergeError, match="2 non-finite values in x"):  # also where a tensor is only copied
        merged("task_arithmetic", torch.full((2,), 7e4), [expert[:2]], {"weight": [0]}, dtype=torch.float16)


def test_large_finite_values_are_no_fault() -> None:
    base = torch.full((40,), 2e38)
    assert torch.equal(merged("linear", base, [base, base - 1e37], {"weight": [1, 0]}), base)
    result = merged("passthrough", base, [base], {"scale": [1.5]})
    assert bool(torch.isfinite(result).all())


def test_stream_gives_every_tensor_of_the_base_in_its_order() -> None:
    made = models(torch.bfloat16)
    streamed = list(engine_of(made, dtype=torch.float32).stream(two_groups(W)))
    assert [name for name, _ in streamed] == ["a", "b", "ids", "c"]
    assert [tensor.dtype for _, tensor in streamed] == [torch.float32, torch.float32, torch.int64, torch.float32]
    assert dict(streamed)["ids"].tolist() == [0, 1, 2]


def test_resident_parameters_that_want_gradients_are_written_without() -> None:
    made = models()
    into = {name: torch.nn.Parameter(t, requires_grad=t.is_floating_point()) for name, t in resident(made).items()}
    engine = engine_of(made)
    engine.apply(two_groups(W), into)
    assert same({name: tensor.detach() for name, tensor in into.items()}, engine, two_groups(W))
    assert into["a"].grad_fn is None


def test_unsuitable_resident_tensors_are_errors_before_any_write() -> None:
    made = models()
    engine = engine_of(made)
    into = resident(made)
    before = into["a"].clone()
    for wrong, message in (
        ({"c": into["c"].int()}, "it is int32 of shape"),
        ({"c": into["a"]}, r"c: the resident tensor must have shape \(2, 37\) on cpu .* float32 of shape \(9, 37\)"),
    ):
        with pytest.raises(MergeError, match=message):
            engine.apply(two_groups(W), {**into, **wrong})
    with pytest.raises(MergeError, match="no tensor 'c'"):
        engine.apply(two_groups(W), {name: into[name] for name in ("a", "b")})
    assert torch.equal(into["a"], before)


def test_places_of_another_type_or_order_get_what_is_rounded_to_the_results_type() -> None:
    made = models(torch.bfloat16)
    engine, into = engine_of(made), resident(made)
    into |= {"a": torch.zeros(9, 37), "c": torch.zeros(37, 5)[:, 1:3].T}
    engine.apply(two_groups(W), into)
    assert same({**into, "a": into["a"].bfloat16(), "c": into["c"].bfloat16()}, engine, two_groups(W))
    assert torch.equal(into["a"], into["a"].bfloat16().float())
    assert int(into["c"].untyped_storage().nbytes() / 4) == 37 * 5


def test_inputs_of_another_shape_or_name_are_refused() -> None:
    made = models()
    with pytest.raises(MergeError, match=r"distinct names for 3 inputs; got \['a', 'a', 'b'\]"):
        make_engine(made[0], made[1:], names=("a", "a", "b"))
    made[2]["b"] = made[2]["b"][:3]
    with pytest.raises(MergeError, match=r"b has shape \(3, 37\) in 'code' and \(9, 37\) in the base"):
        list(engine_of(made).stream(two_groups(W)))
    with pytest.raises(MergeError, match=r"The recipe merges \['x', 'y', 'z'\], the engine has"):
        list(engine_of(models()).stream(two_groups(W, names=("x", "y", "z"))))


def test_a_wrong_candidate_is_refused_before_anything_is_written() -> None:
    made = models()
    engine, into = engine_of(made), resident(made)
    wrong = Merge(two_groups(W).recipe, CoefficientTable(GROUPS, {"wieght": np.array(W)}))
    with pytest.raises(MethodError, match=r"no parameter 'wieght'\. Did you mean 'weight'\?"):
        engine.apply(wrong, into)
    with pytest.raises(MethodError, match=r"weight needs 3 value\(s\) per group; it has 2"):
        engine.apply(Merge(wrong.recipe, CoefficientTable(GROUPS, {"weight": np.ones((2, 2))})), into)
    assert torch.equal(into["a"], made[0]["a"])


def test_thresholds_are_found_again_when_the_density_changes_and_kept_in_bounds() -> None:
    base, *inputs = random_models(1, 2, torch.bfloat16, (60, 1001))
    engine = make_engine({"x": base}, [{"x": tensor} for tensor in inputs])
    into = {"x": base.clone()}
    for density in [*np.linspace(0.05, 0.95, 12), 0.05, 0.5]:
        merge = make_merge("ties", 2, {"density": [density, 1 - density]})
        engine.apply(merge, into)
        fresh = make_engine({"x": base}, [{"x": tensor} for tensor in inputs], names=NAMES)
        assert same(into, fresh, merge)
