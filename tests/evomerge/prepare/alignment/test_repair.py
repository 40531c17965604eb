import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from evomerge.prepare.alignment.repair import Channels, goal, measure, repair, rescale

Layers = list[tuple[Tensor, Tensor]]


def network(seed: int, widths: tuple[int, ...] = (8, 32, 32, 4)) -> Layers:
    random = torch.Generator().manual_seed(seed)
    pairs = itertools.pairwise(widths)
    return [(torch.randn(b, a, generator=random) / a**0.5, 0.3 * torch.randn(b, generator=random)) for a, b in pairs]


def inputs() -> Tensor:
    return torch.randn(500, 8, generator=torch.Generator().manual_seed(9))


def outputs(layers: Layers, x: Tensor) -> list[Tensor]:
    """Of every layer before its activation function."""
    made: list[Tensor] = []
    for weight, bias in layers:
        made.append(linear(torch.relu(made[-1]) if made else x, weight, bias))
    return made


def test_statistics_of_batches_of_any_shape() -> None:
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    found = measure([x[:2], x[2:5].reshape(-1, 4), x[5:]])
    flat = x.reshape(-1, 4).double()
    torch.testing.assert_close(found.mean, flat.mean(0))
    torch.testing.assert_close(found.std, (flat - flat.mean(0)).square().sum(0).div(29).sqrt())
    with pytest.raises(ValueError, match=r"at least two output vectors; there are 1\."):
        measure([x[0, 0]])


def test_the_goal_averages_standard_deviations_and_not_variances() -> None:
    one, other = (Channels(torch.tensor([m]).double(), torch.tensor([s]).double()) for m, s in ((1.0, 1.0), (3.0, 5.0)))
    wanted = goal([one, other], [0.25, 0.75])
    assert (float(wanted.mean), float(wanted.std)) == (2.5, 4.0)


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_an_average_of_unrelated_networks_gets_their_statistics_back(alpha: float) -> None:
    first, second = network(1), network(2)
    merged = [
        tuple(a * (1 - alpha) + b * alpha for a, b in zip(x, y, strict=True))
        for x, y in zip(first, second, strict=True)
    ]
    x = inputs()
    goals = [
        goal([measure([a]), measure([b])], [1 - alpha, alpha])
        for a, b in zip(outputs(first, x), outputs(second, x), strict=True)
    ]
    before = measure([outputs(merged, x)[-1]])  # type: ignore[arg-type]
    assert float((before.std / goals[-1].std).mean()) < 0.6, "variance is lost without it"
    repaired: Layers = []
    for (weight, bias), wanted in zip(merged, goals, strict=True):
        found = measure([outputs([*repaired, (weight, bias)], x)[-1]])
        repaired.append(repair(weight, bias, found, wanted))
    for made, wanted in zip(outputs(repaired, x), goals, strict=True):
        torch.testing.assert_close(measure([made]).mean, wanted.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(measure([made]).std, wanted.std, rtol=1e-4, atol=1e-5)


def test_rescaling_multiplies_outputs_and_moves_nothing() -> None:
    ((weight, bias),) = network(3, (8, 5))
    x = inputs()
    found = measure([linear(x, weight, bias)])
    wanted = Channels(found.mean + 7, found.std * torch.tensor([1.0, 2, 3, 4, 0.5]))
    scaled, moved = rescale(weight, bias, found, wanted)
    torch.testing.assert_close(linear(x, scaled, moved), linear(x, weight, bias) * torch.tensor([1.0, 2, 3, 4, 0.5]))
    alone, none = rescale(weight, None, found, wanted)
    assert none is None
    assert torch.equal(alone, scaled)


def test_a_layer_without_a_bias_gets_one() -> None:
    ((weight, _),) = network(3, (8, 5))
    x = inputs()
    found = measure([linear(x, weight)])
    wanted = Channels(found.mean + 1, found.std * 2)
    made = measure([linear(x, *repair(weight, None, found, wanted))])
    torch.testing.assert_close(made.mean, wanted.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.std, wanted.std, rtol=1e-5, atol=1e-5)


def test_correct_statistics_stay_and_constant_outputs_stay_finite() -> None:
    weight, bias = torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([0.5, 3])
    found = measure([linear(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), weight, bias)])
    assert float(found.std[1]) == 0
    same = repair(weight, bias, found, found)
    torch.testing.assert_close(same, (weight, bias))
    other = repair(weight, bias, found, Channels(found.mean + 1, found.std + 1))
    assert torch.equal(other[0][1], torch.zeros(2))
    assert float(other[1][1]) == 4.0
    assert repair(weight.bfloat16(), bias.bfloat16(), found, found)[0].dtype == torch.bfloat16


def test_rounding_is_no_variance() -> None:
    weight, bias = torch.full((1, 8), 3e-8), torch.ones(1)
    found = measure([linear(inputs(), weight, bias)])
    assert float(found.std) > 0, "the last bit of a float32 flickers"
    made = repair(weight, bias, found, Channels(found.mean, torch.tensor([2.0]).double()))
    torch.testing.assert_close(made, (weight, bias), rtol=1e-6, atol=0)
