import numpy as np
import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models
from tests.evomerge.merging.vectors import DELTAS, check, merged_delta


class TestPcb(MergeMethodContract):
    name = "pcb"
    values = fixed({"weight": [0.9, 1.2, 0.8], "density": [0.3, 0.5, 0.7]})
    one_hot = None  # the weights come after the competition
    scales = False  # the deltas themselves are in the tanh
    local = False  # magnitudes and balances are ranked over the whole model


@pytest.mark.slow
class TestPcbOfSigns(MergeMethodContract):
    name = "pcb"
    options = fixed({"compat": "vision_es"})
    values = fixed({"weight": [0.9, 1.2, 0.8], "density": [0.3, 0.5, 0.7], "clip": 0.01})
    one_hot = None  # as above
    local = False  # as above


@pytest.mark.slow
class TestPcbForVision(MergeMethodContract):
    name = "pcb"
    options = fixed({"compat": "vision"})
    values = fixed({"weight": [0.9, 1.2, 0.8], "density": [0.3, 0.5, 0.7], "clip": 0.01})
    one_hot = None  # as above
    scales = False  # as above
    local = False  # as above


@pytest.mark.parametrize(
    ("compat", "clip", "expected"),
    [
        ("official", 1e-4, [3, -2.5, -2.5, 0, -2.5, 0.5]),
        ("official", 0.01, [3, -2.5, -2.5, 0, -2.5, 0.5]),
        ("vision", 0.01, [2.632185, -2.499987, -2.5, -1.2, 0, 0]),
        ("vision_es", 0.01, [2.467712, -2.5, 0, -1.2, 0, 0]),
    ],
)
def test_worked_examples(compat: str, clip: float, expected: list[float]) -> None:
    check(merged_delta("pcb", {"density": [0.5] * 3, "clip": clip}, options={"compat": compat}), expected)


def competition(deltas: np.ndarray, density: list[float], clip: float, compat: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and clipped deltas, each (n_inputs, n), as they are written down: in float64, by sorting."""
    n, d = deltas.shape

    def between(row: np.ndarray, low: int, high: int) -> np.ndarray:
        ordered = np.sort(row)
        return np.clip(row, ordered[low], ordered[high])

    def minmax(row: np.ndarray) -> np.ndarray:
        return (row - row.min()) / (row.max() - row.min())

    sizes = np.stack([between(np.abs(row), int(d * clip), int(d * (1 - clip) - 1)) for row in deltas])
    shares = np.stack([minmax(row) for row in sizes]) * np.sign(deltas)
    if compat == "official":
        inter = np.tanh(deltas * deltas.sum(0))
    elif compat == "vision":
        inter = np.tanh(deltas * shares.sum(0))
    else:
        inter = np.tanh(shares[:, None] * shares[None]).sum(1)
    balance = np.exp(n * shares**2) * inter
    scores = np.stack([minmax(between(row, int(d * (1 - r)), d - 1)) for row, r in zip(balance, density, strict=True)])
    return scores, np.sign(deltas) * sizes


def reference(deltas: np.ndarray, weight: list[float], density: list[float], clip: float, compat: str) -> np.ndarray:
    scores, clipped = competition(deltas, density, clip, compat)
    return (np.array(weight)[:, None] * scores * clipped).sum(0) / np.maximum(scores.sum(0), 1e-12)


def test_worked_scores_and_clipped_deltas_of_the_reference() -> None:
    """What the method is compared with below; the merged delta of the example shows neither."""
    scores, clipped = competition(np.stack([delta.double() for delta in DELTAS]), [0.5] * 3, 1e-4, "official")
    expected = [[1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0.01742], [0, 0, 1, 0, 0.656758, 0]]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6)
    expected = [[3, -3, 2, 1, 0.1, -0.5], [-1, -2, 0.8, -1.2, 2, 0.5], [2, 0.9, -2.5, 0.3, -2.5, 0.25]]
    np.testing.assert_allclose(clipped, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("compat", ["official", "vision", "vision_es"])
def test_against_whole_models_in_float64(compat: str) -> None:
    models = [{"x": t, "y": t[:4] * 3} for t in random_models(3, 3, torch.float32, (40, 1300))]
    values = {"weight": [0.8, 1.3, 1.0], "density": [0.05, 0.1, 0.4], "clip": 0.01}
    merge = make_merge("pcb", 3, values, options={"compat": compat})
    result = dict(make_engine(models[0], models[1:]).stream(merge))
    flat = [np.concatenate([tensor.numpy().ravel() for tensor in model.values()]) for model in models]
    deltas = np.stack([model - flat[0] for model in flat[1:]]).astype(np.float64)
    expected = reference(deltas, values["weight"], values["density"], 0.01, compat)
    got = np.concatenate([tensor.numpy().ravel() for tensor in result.values()]) - flat[0]
    # Scores of 1e-5 and less rest on the last bits of a balance.
    wrong = ~np.isclose(got, expected, rtol=1e-3, atol=1e-5)
    assert wrong.mean() < 1e-3
    assert 0.05 < (got != 0).mean() < 0.6


def test_many_inputs_do_not_overflow() -> None:
    base, *inputs = random_models(0, 2, torch.float32)
    names = tuple(f"m{index}" for index in range(100))
    result = merged("pcb", base, inputs * 50, {"density": 0.2}, names=names)
    assert bool(torch.isfinite(result).all())
    assert not torch.equal(result, base)


def test_a_model_that_changed_nothing_does_not_dilute_the_others() -> None:
    base, other = random_models(0, 1, torch.float32)
    result = merged("pcb", base, [other, base.clone()], {"density": 0.2})
    whole = torch.isclose(result, other, rtol=0, atol=1e-6)
    assert 30 < int((whole & (result != base)).sum()) < 100
    # Only the largest is clipped.
    assert int((~whole & (result != base)).sum()) <= 1


def test_deltas_of_one_magnitude_are_kept() -> None:
    result = merged("pcb", torch.zeros(4), [torch.tensor([1.0, -1, 1, -1])], {"density": 0.5})
    assert result.tolist() == [1, -1, 1, -1]


def test_a_clip_of_half_the_elements_is_refused() -> None:
    with pytest.raises(MethodError, match=r"a fraction below one half; it is 0\.5"):
        merged_delta("pcb", {"clip": 0.5})
    with pytest.raises(MethodError, match=r"between 0 and 1; it is -1\.0"):
        merged_delta("pcb", {"density": -1})
