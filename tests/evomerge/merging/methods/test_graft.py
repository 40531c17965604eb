import numpy as np
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, random_models


class TestGraft(MergeMethodContract):
    name = "graft"
    values = fixed({"weight": [0.3, 0.9, 1.5], "density": [0.1, 0.4, 1.0]})
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})
    local = False  # the largest of the whole model


def test_the_largest_elements_of_the_whole_model_are_grafted() -> None:
    models = [{"x": t, "y": t[:4] * 3} for t in random_models(3, 2, torch.bfloat16, (40, 130))]
    merge = make_merge("graft", 2, {"weight": [0.5, 1.2], "density": [0.01, 0.3]})
    result = dict(make_engine(models[0], models[1:], dtype=torch.float32).stream(merge))
    flat = [np.concatenate([tensor.double().numpy().ravel() for tensor in model.values()]) for model in models]
    expected = flat[0].copy()
    for model, weight, density in zip(flat[1:], (0.5, 1.2), (0.01, 0.3), strict=True):
        delta = model - flat[0]
        order = np.argsort(-np.abs(delta), kind="stable")[: int(density * delta.size) + 1]
        expected[order] += weight * delta[order]
    got = np.concatenate([tensor.double().numpy().ravel() for tensor in result.values()])
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    unchanged = flat[0] == got
    assert 0.65 < unchanged.mean() < 0.75
