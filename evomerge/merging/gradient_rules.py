"""Rules by which the result of a merge method is differentiated by its parameters.

Only what varies smoothly is differentiated: masks, thresholds and elected signs are kept as they are at the current
coefficients, and parameters that only move them (densities) have no gradient.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


def _allowed(**_options: Any) -> None:
    return None


@dataclass(frozen=True)
class Combination:
    """The result is a sum of terms, or another function, of coefficients that `prepare` computes.

    The coefficients are a smooth function of the parameters, differentiated numerically in float64; the terms are
    contracted with the gradient in one pass over the models.

    Attributes:
        parameters: Parameters that the coefficients depend on smoothly.
        terms: terms(models, *, ...) -> the derivative of the result by each coefficient, with the keywords of a
            kernel: the term, for a sum. None if `prepare` returns a `SumOf`, whose terms are models.
        coefficients: Function from the result of `prepare` to the coefficients.
        options: Options that are set while differentiating, such as a tolerance.
        unless: unless(**options) -> why there is no gradient with these options of the method, or None.
    """

    parameters: tuple[str, ...]
    terms: Callable[..., Iterable[Tensor]] | None = field(default=None, repr=False)
    coefficients: Callable[[Any], Sequence[float]] = field(default=tuple, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    unless: Callable[..., str | None] = field(default=_allowed, repr=False)

    @property
    def function(self) -> Callable[..., Any] | None:
        """Return the function whose signature declares keywords."""
        return self.terms


@dataclass(frozen=True)
class Contraction:
    """The method contracts a gradient with the derivative of its kernel.

    Attributes:
        parameters: The parameters that it is differentiated by.
        contract: contract(models, gradient, *, ...) -> parameter -> its share in the derivative of
            sum(gradient * kernel(models)), a number or one per input, with the keywords of a kernel; `gradient` is
            read-only.
        unless: See `Combination`.
    """

    parameters: tuple[str, ...]
    contract: Callable[..., Mapping[str, Any]] = field(repr=False)
    unless: Callable[..., str | None] = field(default=_allowed, repr=False)

    @property
    def function(self) -> Callable[..., Any]:
        """Return the function whose signature declares keywords."""
        return self.contract


@dataclass(frozen=True)
class Affine:
    """The result is affine in each of the parameters while the others are fixed: the difference of two results.

    This reads the models once per parameter and input.
    """

    parameters: tuple[str, ...]
    unless: Callable[..., str | None] = field(default=_allowed, repr=False)

    @property
    def function(self) -> None:
        """Return None: no function declares keywords."""
        return None


@dataclass(frozen=True)
class NoGradient:
    """There is no gradient. reason: why, as a clause that follows the method's name."""

    reason: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return no parameters."""
        return ()

    @property
    def function(self) -> None:
        """Return None: no function declares keywords."""
        return None

    def unless(self, **_options: Any) -> str:
        """Return the reason."""
        return self.reason


GradientRule = Combination | Contraction | Affine | NoGradient
