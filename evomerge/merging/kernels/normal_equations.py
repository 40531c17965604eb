"""Normal equations of merging by least squares: those of RegMean and MaTS, and two solvers.

Notation, for a linear layer: D (in, out) is a delta, G (in, in) the second moment of the layer's inputs, O
(out, out) that of its output gradients; all in float64. Equations in deltas have the same solution as
those in weights but lose less precision: the part shared by all models never passes through a nearly singular matrix.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.moments import input_moments
from evomerge.merging.tiles import TensorSource

#: The equations: RegMean's, with G alone; K-FAC's, with G and O; those of Fisher information; those of an average.
Objective = Literal["regmean", "kfac", "fisher", "average"]
#: The statistics that an objective needs.
KINDS = {"regmean": ("gram",), "kfac": ("gram", "gram_out"), "fisher": ("fisher",), "average": ()}

#: Minimum Fisher information in the authors' code of MaTS.
_FLOOR = 1e-8
#: Amounts added to the diagonal of a system that is not positive definite, in units of its mean.
_FIRST, _LAST = 1e-12, 1e-2


@dataclass(frozen=True)
class Layer:
    """A linear layer's weight: its memory layout, and the second moments of each input model.

    transposed: stored (in, out), like GPT-2's layers, instead of (out, in). grams: G of each input, None if
    no model has it. grads: O of each input, None if it was not requested or no model has it.
    """

    transposed: bool
    grams: list[Tensor] | None
    grads: list[Tensor] | None

    def columns(self, delta: Tensor) -> Tensor:
        """Convert a delta from the layer's stored layout to D."""
        return (delta if self.transposed else delta.T).double()

    def stored(self, solution: Tensor) -> Tensor:
        """Convert D to a delta in the layer's stored layout, float32."""
        return (solution if self.transposed else solution.T).float()


def layer(source: TensorSource, *, grads: bool = False) -> Layer:
    """Return the layer that a tensor belongs to; without moments for a tensor that is not a layer's weight.

    grads: also read O. Raises MethodError for moments that some inputs lack, or of another shape.
    """
    if len(source.shape) != 2:
        return Layer(False, None, None)
    transposed = source.moment("transposed", 0) is not None
    n_in, n_out = source.shape if transposed else source.shape[::-1]
    return Layer(
        transposed,
        input_moments(source, "gram", (n_in, n_in)),
        input_moments(source, "gram_out", (n_out, n_out)) if grads else None,
    )


def operators(
    source: TensorSource, objective: Objective, off_diagonal: float
) -> list[Callable[[Tensor], Tensor]] | None:
    """Return the objective's operator on each input's delta, of a quadratic form; None without statistics."""
    if objective == "average":
        return [lambda delta: delta for _ in source.input_names]
    if objective == "fisher":
        fishers = input_moments(source, "fisher", source.shape)
        return (
            None if fishers is None else [partial(torch.mul, moment.double().clamp_min_(_FLOOR)) for moment in fishers]
        )
    found = layer(source, grads=objective == "kfac")
    if found.grams is None or (objective == "kfac" and found.grads is None):
        return None
    reads = [shrunk(gram, off_diagonal) for gram in found.grams]
    writes = [shrunk(grad, off_diagonal) for grad in found.grads or ()]
    left, right = (reads, writes) if found.transposed else (writes, reads)

    def term(index: int) -> Callable[[Tensor], Tensor]:
        def apply(delta: Tensor) -> Tensor:
            image = left[index] @ delta if left else delta
            return image @ right[index] if right else image

        return apply

    return [term(index) for index in range(len(reads))]


def shrunk(moment: Tensor, off_diagonal: float, ridge: float = 0.0) -> Tensor:
    """Return G with its off-diagonal scaled, and `ridge` times each input's own and the mean second moment added."""
    diagonal = moment.diagonal().double()
    result = moment.double() * off_diagonal
    return result.diagonal_scatter(shrunk_diagonal(diagonal, ridge))


def shrunk_diagonal(diagonal: Tensor, ridge: float) -> Tensor:
    """Return the diagonal (in,) of `shrunk`, from that of G in float64."""
    return diagonal * (1 + ridge) + ridge * diagonal.mean()


def solve(system: Tensor, right: Tensor) -> Tensor:
    """Return the solution (in, out) of system @ D = right by Cholesky decomposition; zeros for a system of zeros.

    If the system (in, in) is not positive definite, its diagonal is increased, tenfold each time, until it is: the
    models carry no information in some directions, and there the solution tends to zero. Raises MethodError if a
    hundredth of the mean does not suffice, which never happens for second moments.
    """
    mean = float(system.diagonal().mean()) if len(system) else 0.0
    if mean == 0:
        return torch.zeros_like(right)
    factor, failed = torch.linalg.cholesky_ex(system)
    added = _FIRST
    while failed:
        if added > _LAST or not mean > 0:
            raise MethodError(
                f"A sum of second moments of shape {tuple(system.shape)} is not positive definite (mean of the "
                f"diagonal {mean:.3g}): the statistics are damaged, or a weight is negative. Collect them again."
            )
        factor, failed = torch.linalg.cholesky_ex(system.diagonal_scatter(system.diagonal() + added * mean))
        added *= 10
    return torch.cholesky_solve(right, factor)


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Run `iterations` steps from `start` toward the solution of operator(D) = right, all of one shape, in float64.

    Stops early if the residual's norm is at most `tolerance` times that of `right`, the rule of scipy's `cg`.
    If the operator is not positive definite, it returns its current result.
    """
    solution = start.clone()
    residual = right - operator(solution)
    square = float(residual.square().sum())
    direction = residual.clone()
    enough = (tolerance * float(right.norm())) ** 2
    for _ in range(iterations):
        if square <= enough:
            break
        image = operator(direction)
        curvature = float((direction * image).sum())
        if not curvature > 0:
            break
        step = square / curvature
        solution.add_(direction * step)
        residual.sub_(image * step)
        before, square = square, float(residual.square().sum())
        direction.mul_(square / before).add_(residual)
    return solution


def total(parts: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Sum coefficient times matrix, in the order of the inputs."""
    result = parts[0] * coefficients[0]
    for part, coefficient in zip(parts[1:], coefficients[1:], strict=True):
        result.add_(part * coefficient)
    return result
