import numpy as np
import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models
from tests.evomerge.merging.vectors import check, merged_delta


class TestComPeft(MergeMethodContract):
    name = "compeft"
    values = fixed({"weight": [0.3, -0.9, 1.5], "density": [0.1, 0.4, 1.0], "scale": 0.8})
    one_hot = None  # a compressed delta is not the delta
    local = False  # the largest of the whole model


@pytest.mark.slow
class TestSparseTernary(MergeMethodContract):
    name = "compeft"
    options = fixed({"values": "stc"})
    values = fixed({"weight": [0.3, -0.9, 1.5], "density": [0.1, 0.4, 1.0]})
    one_hot = None  # as above
    local = False  # as above


@pytest.mark.slow
class TestPruned(MergeMethodContract):
    name = "compeft"
    options = fixed({"values": "prune"})
    values = fixed({"weight": [0.3, -0.9, 1.5], "density": [0.1, 0.4, 1.0]})
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})
    local = False  # as above


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("std", [2.370654, -2.370654, 2.370654, 2.370654, 0, 0]),
        ("stc", [2.5, -2.5, 2.5, 2.5, 0, 0]),
        ("prune", [4, -3, 2, 1, 0, 0]),
    ],
)
def test_worked_example(values: str, expected: list[float]) -> None:
    check(merged_delta("compeft", {"density": 0.5}, n_inputs=1, options={"values": values}), expected)


@pytest.mark.parametrize("values", ["std", "stc", "prune"])
def test_against_whole_models_in_float64(values: str) -> None:
    models = [{"x": t, "y": t[:4] * 3} for t in random_models(3, 2, torch.bfloat16, (40, 1300))]
    coefficients = {"weight": [0.5, -2], "density": [0.05, 0.3]}
    merge = make_merge("compeft", 2, coefficients, options={"values": values})
    result = dict(make_engine(models[0], models[1:], dtype=torch.float32).stream(merge))
    flat = [np.concatenate([tensor.double().numpy().ravel() for tensor in model.values()]) for model in models]
    expected = flat[0].copy()
    for model, weight, density in zip(flat[1:], (0.5, -2), (0.05, 0.3), strict=True):
        delta = model - flat[0]
        order = np.argsort(-np.abs(delta), kind="stable")[: int(density * delta.size) + 1]
        size = {"std": np.std(delta, ddof=1), "stc": np.abs(delta[order]).mean(), "prune": np.abs(delta[order])}[values]
        expected[order] += weight * size * np.sign(delta[order])
    got = np.concatenate([tensor.double().numpy().ravel() for tensor in result.values()])
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_groups_may_have_densities_of_their_own() -> None:
    models = [{"x": t, "y": t[:4] * 3} for t in random_models(3, 1, torch.bfloat16, (40, 1300))]
    merge = make_merge("compeft", 1, {"density": 0.1}, groups={"one": ("x",), "other": ("y",)})
    merge.table.values["density"].flags.writeable = True
    merge.table.values["density"][1] = 0.5
    result = dict(make_engine(models[0], models[1:]).stream(merge))
    for name, density in (("x", 0.1), ("y", 0.5)):
        whole = make_merge("compeft", 1, {"density": density})
        assert torch.equal(result[name], dict(make_engine(models[0], models[1:]).stream(whole))[name])


def test_a_search_finds_what_a_stream_does() -> None:
    models = [{"x": t, "y": t[:4] * 3} for t in random_models(3, 2, torch.bfloat16, (40, 1300))]
    engine, into = make_engine(models[0], models[1:]), {name: t.clone() for name, t in models[0].items()}
    for density in ([0.1, 0.2], [0.3, 0.2], [0.1, 0.2]):
        for values in ("std", "stc", "prune"):
            merge = make_merge("compeft", 2, {"density": density}, options={"values": values})
            engine.apply(merge, into)
            for name, tensor in make_engine(models[0], models[1:]).stream(merge):
                assert torch.equal(tensor, into[name])


def test_density_zero_and_single_elements_give_the_base() -> None:
    for values in ("std", "stc", "prune"):
        given = {"options": {"values": values}}
        assert merged_delta("compeft", {"density": 0}, **given).tolist() == [0] * 6
    assert merged("compeft", torch.zeros(1), [torch.ones(1)], {}).tolist() == [0]


def test_a_density_that_is_no_share_is_refused() -> None:
    with pytest.raises(MethodError, match=r"between 0 and 1; it is 1\.5"):
        merged_delta("compeft", {"density": [0.5, 1.5, 0.5]})
