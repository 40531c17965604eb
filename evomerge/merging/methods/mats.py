"""MaTS: merging in task subspaces by conjugate gradients (Tam et al., 2023). https://arxiv.org/abs/2312.04339."""

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from evomerge.merging.kernels.combination import normalized, sole_input
from evomerge.merging.kernels.normal_equations import KINDS, Objective, conjugate_gradients, operators, total
from evomerge.merging.kernels.spectral import weighted_sum
from evomerge.merging.method import Bounds, CopyOf, MethodError, NoGradient, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Initial = Literal["task_arithmetic", "average", "base"]


def _shares(
    source: TensorSource, *, weight: Weight, objective: Objective = "regmean", initial: Initial = "task_arithmetic"
) -> CopyOf | tuple[float, ...]:
    for index, name in enumerate(source.input_names):
        lacking = [kind for kind in KINDS[objective] if kind not in source.kinds(index)]
        if lacking:
            raise MethodError(
                f"mats with objective {objective} needs the statistics {lacking[0]!r} of {name}: collect them with "
                f"`evomerge tools calibrate MODEL --data FILE --kinds {','.join(KINDS[objective])} -o FILE`."
            )
    if min(weight) < 0 or not any(weight):
        raise MethodError(f"{source.tensor}: mats needs non-negative weights, not all zero; they are {list(weight)}.")
    shares = normalized(weight)
    sole = sole_input(shares) if initial == "average" else None
    return shares if sole is None else CopyOf(sole)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2312.04339",
    gradient=NoGradient("has no gradient: every coefficient would need another solution of each layer's equations"),
    prepare=_shares,
    whole=True,
    needs=("gram|fisher",),
)
def mats(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    scale: Annotated[Shared, Bounds(0.3, 0.0, 1.0)],
    iterations: Annotated[Shared, Bounds(100.0, 1.0, 200.0)],
    # One as published; below 1, the objective differs.
    off_diagonal: Annotated[Shared, Bounds(1.0, 1.0, 1.0)],
    objective: Objective = "regmean",
    initial: Initial = "task_arithmetic",
    tolerance: float = 1e-5,
    prepared: tuple[float, ...],
    source: TensorSource,
) -> Tensor:
    """Conjugate gradients from an initial merge toward the solution of sum(w_i G_i W O_i) = sum(w_i G_i W_i O_i).

    objective: "regmean" uses the second moment G_i of a linear layer's inputs and no O_i, "kfac" also that of its
    output gradients as O_i, "fisher" each element's Fisher information (at least 1e-8), "average" neither.
    initial: `scale` times the sum of the weighted deltas, their mean, or the base; tensors without statistics
    keep it. iterations (rounded): early stopping is intended; also stops if the residual is below `tolerance`.
    """
    size = round(iterations)
    if size < 0 or tolerance < 0 or not 0 <= off_diagonal <= 1:
        raise MethodError(
            f"mats: iterations and tolerance must be 0 or more, off_diagonal between 0 and 1; they are {iterations}, "
            f"{tolerance} and {off_diagonal}."
        )
    factors = {"task_arithmetic": [scale * w for w in weight], "average": list(prepared), "base": [0.0] * len(weight)}
    terms = operators(source, objective, off_diagonal)
    if terms is None:
        return weighted_sum(deltas, factors[initial])
    wide = [delta.double() for delta in deltas]
    # In float64, since the iterations amplify rounding errors of the start a thousandfold.
    start = total(wide, factors[initial])
    goal = total([term(delta) for term, delta in zip(terms, wide, strict=True)], prepared)

    def operator(delta: Tensor) -> Tensor:
        return total([term(delta) for term in terms], prepared)

    return conjugate_gradients(operator, goal, start, size, tolerance).float()
