"""How much of a merge a LoRA made from it contains, in numbers and sentences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Maximum number of tensors listed by name.
LISTED = 8


@dataclass(frozen=True)
class LoraReport:
    """How much of a merge's change a LoRA contains; all numbers are ratios of Frobenius norms.

    layers: weight -> relative error of its factors, 0 for none; error: the same for all of them together.
    left_out: changed tensor outside the adapter -> its change relative to its size. missing: relative error for
    the change of all tensors. saved: modules that the adapter stores whole. savable: others that it could.
    """

    rank: int
    error: float
    missing: float
    layers: Mapping[str, float]
    left_out: Mapping[str, float]
    saved: tuple[str, ...]
    savable: tuple[str, ...]

    @property
    def text(self) -> list[str]:
        """Return the report in sentences."""
        said = [
            f"A LoRA of rank {self.rank} for {len(self.layers)} weights; it lacks {self.error:.3%} of their change."
        ]
        if self.error > 0:
            worst = max(self.layers, key=lambda name: self.layers[name])
            said.append(f"It lacks most in {worst}: {self.layers[worst]:.3%}.")
        if self.saved:
            said.append(f"Saved whole: {_listed(self.saved)}.")
        if self.left_out:
            names = [f"{name} (by {change:.3%} of its size)" for name, change in self.left_out.items()]
            said.append(
                f"Not in it is what changed in {len(names)} tensors that no factors can hold: {_listed(names)}. "
                f"With them it lacks {self.missing:.3%} of the whole change."
            )
        if self.savable:
            said.append(f"--modules-to-save would take in whole: {_listed(self.savable)}.")
        return said


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return ", ".join(shown[:LISTED]) + more
