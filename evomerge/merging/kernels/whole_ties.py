"""TIES over a whole model, as in its authors' code: one threshold per input, one majority for votes of zero.

https://github.com/prateeky2806/ties-merging and https://github.com/yule-BUAA/MergeLM flatten a model into one
vector and sort it; this uses histograms instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from evomerge.merging.kernels.consensus import RULES, Election, Rule, ballot
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.sparsify import Cut, trim
from evomerge.merging.kernels.thresholds import Ranking, magnitudes
from evomerge.merging.tiles import TensorSource, Tile, total

#: Reference code: determines its rounding, and the sign of an element if the whole model is undecided.
Convention = Literal["official", "mergelm"]
_MAJORITIES_KEPT = 16


class WholeModel:
    """Thresholds and majorities of a model, computed when a tensor's density is known, and cached.

    They are those of a model with this density in all of its tensors. An input votes in the tensors it has.
    """

    def __init__(self, sources: Iterable[TensorSource], convention: Convention) -> None:
        self._sources = sources
        self._convention = convention
        self._ranking = Ranking(sources, "magnitudes", magnitudes)

    def cuts(self, source: TensorSource, density: Sequence[float]) -> tuple[Cut | None, ...]:
        """Return for every input (n_inputs) the cut that keeps its tensor's part of the model's largest elements."""
        found = self._cuts(source.input_names, density)
        return tuple(cut and Cut(cut.threshold, source.numel) for cut in found)

    def rule(
        self, source: TensorSource, density: Sequence[float], weights: Sequence[float], election: Election
    ) -> Rule:
        """Return the election rule for the inputs of the source; only the signs of the weights matter."""
        turned = tuple(-1.0 if weight < 0 else 1.0 for weight in weights)
        key = (self._convention, election, source.input_names, tuple(density), turned)
        make = partial(self._majority, source.input_names, tuple(density), turned, election)
        majority = remembered(self._ranking.found, "majorities", key, make, keep=_MAJORITIES_KEPT)
        # The official code tests for a positive winner, so that an undecided model elects minus.
        undecided = majority or (-1 if self._convention == "official" else 0)
        return replace(RULES["peft"], undecided=undecided)

    def _cuts(self, names: Sequence[str], density: Sequence[float]) -> list[Cut | None]:
        """Return a threshold for every input; all elements equal to it are kept."""
        places = {
            (name, place)
            for name, share in zip(names, density, strict=True)
            if (place := self._place(name, share)) is not None and place < self._ranking.numel[name]
        }
        ordered = sorted(places)
        values = {place: ranked.value for place, ranked in zip(ordered, self._ranking.at(ordered), strict=True)}
        return [
            None if place is None else Cut(values.get((name, place), float("inf")), 0)
            for name, place in ((name, self._place(name, share)) for name, share in zip(names, density, strict=True))
        ]

    def _place(self, name: str, density: float) -> int | None:
        """Return the number of elements smaller than the one at the threshold; None keeps everything."""
        numel = self._ranking.numel[name]
        if density == 0:
            return numel
        # MergeLM's parameter is the dropped fraction: 1 - density, up to the last bits of the subtraction.
        official = self._convention == "official"
        dropped = numel - int(numel * density) if official else int(round(numel * (1 - density), 6))
        return dropped - 1 if dropped > 0 else None

    def _majority(
        self, names: tuple[str, ...], density: tuple[float, ...], turned: tuple[float, ...], election: Election
    ) -> int:
        """Return the sign that wins most elements of the model, 0 for neither."""
        cuts = dict(zip(names, self._cuts(names, density), strict=True))
        signs = dict(zip(names, turned, strict=True))

        def balance(source: TensorSource, tile: Tile) -> float:
            base = source.base(tile)
            voters = [(i, name) for i, name in enumerate(source.input_names) if name in cuts]
            kept = [trim(source.deltas(i, tile, base), _within(cuts[name], source), tile) for i, name in voters]
            weights = [signs[name] for _, name in voters]
            return total(ballot(kept, weights, tile, rule=RULES["peft"], election=election).sign_()) if kept else 0.0

        won = 0.0
        for source in self._sources:
            won += sum(source.map(partial(balance, source)))
        return (won > 0) - (won < 0)


def _within(cut: Cut | None, source: TensorSource) -> Cut | None:
    return cut and Cut(cut.threshold, source.numel)
