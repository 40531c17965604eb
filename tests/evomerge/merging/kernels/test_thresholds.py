from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merging import tiles
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.sparsify import trim
from evomerge.merging.kernels.thresholds import Largest, Ranking, magnitudes
from evomerge.merging.tiles import TensorSource, Tile, Workers
from tests.contracts.merge_method import NAMES, examples


class Model:
    """A model of several tensors, its sources made anew each time: `deltas` are (n_tensors, n_inputs)."""

    def __init__(self, deltas: Sequence[Sequence[Tensor | None]]) -> None:
        self.deltas = deltas
        self.caches: list[dict[object, object]] = [{} for _ in deltas]
        self.workers = Workers(1)
        self.read = 0

    def __iter__(self) -> Iterator[TensorSource]:
        self.read += 1
        for number, (row, cache) in enumerate(zip(self.deltas, self.caches, strict=True)):
            there = [(name, delta) for name, delta in zip(NAMES, row, strict=False) if delta is not None]
            models = [torch.zeros_like(there[0][1]), *(delta for _, delta in there)]
            names = tuple(name for name, _ in there)
            yield TensorSource(f"t{number}", names, models, seed=0, cache=cache, workers=self.workers)

    def all_of(self, index: int) -> np.ndarray:
        parts = [row[index] for row in self.deltas]
        return np.concatenate([part.flatten().numpy() for part in parts if part is not None])


def random_model(seed: int, n_inputs: int = 2, *, rounded: bool = False) -> Model:
    random = torch.Generator().manual_seed(seed)
    shapes = ((3, 5), (70, 1003), (1,), (0,), (8, 40))
    scales = (1e-3, 1, 10, 1, 1e-30)
    deltas = [
        [scale * torch.randn(shape, generator=random) for _ in range(n_inputs)]
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    return Model([[delta.bfloat16().float() if rounded else delta for delta in row] for row in deltas])


def signed(source: TensorSource, tile: Tile) -> list[Tensor]:
    return [source.deltas(index, tile) for index in range(len(source.input_names))]


@examples
@given(seed=st.integers(0, 2**31), rounded=st.booleans())
def test_is_what_sorting_everything_finds(seed: int, rounded: bool) -> None:
    model = random_model(seed, rounded=rounded)
    ranking = Ranking(model, "signed", signed)
    numel = ranking.numel["math"]
    assert numel == 15 + 70210 + 1 + 320
    places = [0, 1, numel // 3, numel // 2, numel - 2, numel - 1]
    for index, name in enumerate(("math", "code")):
        ordered = np.sort(model.all_of(index))
        for found, place in zip(ranking.at([(name, place) for place in places]), places, strict=True):
            assert found.value == ordered[place]
            assert found.smaller == (ordered < ordered[place]).sum()
            assert found.equal == (ordered == ordered[place]).sum()


def test_ranked_values_are_cached() -> None:
    model = random_model(0)
    first = Ranking(model, "signed", signed).at([("math", 5), ("code", 7)])
    read = model.read
    again = Ranking(model, "signed", signed)
    assert again.at([("code", 7), ("math", 5), ("code", 7)]) == [first[1], first[0], first[1]]
    # Once to count elements, once for the cache of the first tensor; no values were read.
    assert model.read - read == 2
    assert Ranking(model, "other values", magnitudes).at([("math", 5)]) != first[:1]


def test_zeros_of_both_signs_and_extremes() -> None:
    values = torch.tensor([0.0, -0.0, 3e38, -3e38, 1e-45, -1e-45, 1.0])
    ranking = Ranking(Model([[values]]), "signed", signed)
    found = [ranked.value for ranked in ranking.at([("math", place) for place in range(7)])]
    assert found == sorted(values.tolist())


def test_an_element_that_is_not_there() -> None:
    ranking = Ranking(random_model(0), "signed", signed)
    for place in (("math", 70546), ("math", -1), ("law", 0)):
        with pytest.raises(IndexError, match=rf"Input '{place[0]}' has \d+ elements; got k = {place[1]}"):
            ranking.at([place])


def kept(model: Model, density: Sequence[float]) -> list[list[Tensor]]:
    """The trimmed deltas of every tensor."""
    largest = Largest(model)
    trimmed = []
    for source in model:
        cuts = largest.cuts(source, [density[NAMES.index(name)] for name in source.input_names])
        rows = [
            [trim(source.deltas(index, tile), cut, tile).clone() for tile in source.tiles]
            for index, cut in enumerate(cuts)
        ]
        trimmed.append([torch.cat([*row, torch.zeros(0)]) for row in rows])
    return trimmed


@examples
@given(seed=st.integers(0, 2**31), density=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=2))
def test_exactly_as_many_are_kept_the_first_of_equals(seed: int, density: list[float]) -> None:
    model = random_model(seed, rounded=True)
    result = kept(model, density)
    for index, share in enumerate(density):
        everything = model.all_of(index)
        expected = np.zeros_like(everything)
        order = np.argsort(-np.abs(everything), kind="stable")[: int(share * everything.size) + 1]
        expected[order] = everything[order]
        np.testing.assert_array_equal(np.concatenate([row[index].numpy() for row in result]), expected)


def test_ties_across_tiles_and_tensors() -> None:
    size = tiles.TILE + 10
    model = Model([[torch.ones(4)], [-torch.ones(size)], [torch.ones(6)]])
    for count in (3, 4, 5, tiles.TILE + 6, size + 4, size + 5):
        result = kept(model, [(count - 0.5) / (size + 10)])
        flat = torch.cat([row[0] for row in result])
        assert torch.equal(flat.abs(), (torch.arange(len(flat)) < count).float())


def test_densities_zero_and_one() -> None:
    model = random_model(0)
    assert not any(row[0].any() for row in kept(model, [0, 1]))
    for row, deltas in zip(kept(model, [0, 1]), model.deltas, strict=True):
        assert torch.equal(row[1], deltas[1].flatten())


def test_an_input_without_a_tensor_is_ranked_among_its_own() -> None:
    model = Model([[torch.tensor([1.0, 2, 3]), torch.tensor([9.0, 8, 7])], [None, torch.tensor([6.0, 10, 1])]])
    assert Largest(model).numel == {"math": 3, "code": 6}
    # 2 of 3, and 3 of 6.
    result = kept(model, [0.34, 0.34])
    assert [row.tolist() for row in result[0]] == [[0, 2, 3], [9, 8, 0]]
    assert [row.tolist() for row in result[1]] == [[0, 10, 0]]


def test_a_cache_keeps_the_last_keys() -> None:
    cache: dict[object, object] = {}
    made = []

    def make(key: int) -> int:
        return remembered(cache, "kind", key, lambda: made.append(key) or key, keep=2)

    assert [make(key) for key in (1, 2, 1, 3, 2, 1)] == [1, 2, 1, 3, 2, 1]
    assert made == [1, 2, 3, 1]
