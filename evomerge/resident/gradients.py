"""Gradients by merge coefficients: each weight's gradient is contracted and dropped as soon as it is complete.

A backward pass then holds one weight's gradient at a time, and gives the derivative by every coefficient at once.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import numpy as np
from torch import Tensor

from evomerge.merging.engine import MergeEngine
from evomerge.merging.slopes import Slopes
from evomerge.recipe import Merge
from evomerge.resident.checkpointing import checkpointed
from evomerge.resident.parts import Owners, Part, parts_of
from evomerge.resident.places import ModelError, Staged
from evomerge.resident.resident import ResidentModel
from search_spaces.base import FloatArray

#: Returns the gradients of merged tensors, by name, from that of a parameter.
_Split = Callable[[Tensor], Iterator[tuple[str, Tensor]]]


class CoefficientGradient:
    """The gradient of a loss by the coefficients of a merge, summed over backward passes.

    Attributes:
        not_finite: Names of tensors whose gradients were not finite; the values of their groups are not, either.
    """

    def __init__(self, slopes: Slopes, searched: Mapping[str, Collection[str]]) -> None:
        self._slopes = slopes
        groups = slopes.groups
        self._row = {name: row for row, members in enumerate(groups.values()) for name in members}
        self._searched = {
            parameter: np.array([[group in searched.get(parameter, ())] for group in groups])
            for parameter in slopes.parameters
        }
        self._sums = {parameter: np.zeros((len(groups), width)) for parameter, width in slopes.widths.items()}
        self.not_finite: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, FloatArray]:
        """Return parameter -> derivatives in the shape of a table: (n_groups, n_inputs), or (n_groups, 1).

        Zero for groups that are not searched; parameters by which the method is not differentiated are missing.
        """
        return {name: np.where(self._searched[name], rows, 0.0) for name, rows in self._sums.items()}

    @property
    def finite(self) -> bool:
        """Whether all gradients were finite."""
        return not self.not_finite

    @property
    def tensors(self) -> list[str]:
        """Return the merged tensors whose gradients contribute: searched, and not the same in all models."""
        searched = np.any([rows[:, 0] for rows in self._searched.values()], axis=0)
        return [name for name, row in self._row.items() if searched[row] and not self._slopes.still(name)]

    def add(self, name: str, gradient: Tensor) -> None:
        """Contract the gradient of a merged tensor and add it to its group."""
        found = self._slopes(name, gradient)
        if not all(np.isfinite(row).all() for row in found.values()):
            self.not_finite = tuple(dict.fromkeys((*self.not_finite, name)))
        for parameter, row in found.items():
            self._sums[parameter][self._row[name]] += row


class GradientHooks:
    """Hooks on the parameters of a resident model that collect gradients by merge coefficients.

    Args:
        model: The model, in evaluation mode; its parameters require no gradient.
        engine: The engine that merges into it.
        checkpointing: Recompute activations in the backward pass instead of keeping them, which takes more time and
            less memory.

    Example:
        After `engine.apply(merge, model.tensors)` and `model.settle()`:

            with GradientHooks(model, engine).of(merge, space.searched) as gradient:
                loss(model).backward()
            by_coordinate = space.pull_back(x, gradient.values)
    """

    def __init__(self, model: ResidentModel, engine: MergeEngine, *, checkpointing: bool = False) -> None:
        self._model = model
        self._engine = engine
        self._checkpointing = checkpointing
        self._parts = parts_of(model)
        self._owners = Owners(model.network)
        self._parameters = {id(parameter): parameter for parameter in model.network.parameters()}

    @contextmanager
    def of(self, merge: Merge, searched: Mapping[str, Collection[str]] | None = None) -> Iterator[CoefficientGradient]:
        """Collect the gradients of backward passes within the context.

        Only weights whose coefficients are searched require gradients; if there are none, a loss has nothing to
        backpropagate to (its `requires_grad` is false). Afterwards the network is as before, without gradients.

        Args:
            merge: The merge that the model holds.
            searched: Parameter -> groups of the merge's coefficients that are searched (`SearchSpace.searched`); None
                for all.

        Yields:
            The gradient, zero at first.

        Raises:
            MethodError: The merge method has no gradient, and why.
            ModelError: A searched tensor reaches the network's output in a way that has no gradient, or the network's
                layers cannot be recomputed.
        """
        slopes = self._engine.slopes(merge)
        everything = dict.fromkeys(slopes.parameters, tuple(slopes.groups))
        gradient = CoefficientGradient(slopes, everything if searched is None else searched)
        splits = self._splits(gradient)
        parameters = [self._parameters[number] for number in splits]
        before = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
        with ExitStack() as stack:
            stack.enter_context(checkpointed(self._model.network) if self._checkpointing else nullcontext())
            try:
                for parameter, split in zip(parameters, splits.values(), strict=True):
                    parameter.requires_grad_(True)
                    hook = partial(_contract, gradient, split)
                    stack.callback(parameter.register_post_accumulate_grad_hook(hook).remove)
                yield gradient
            finally:
                for parameter, (required, old) in zip(parameters, before, strict=True):
                    parameter.requires_grad_(required)
                    parameter.grad = old

    def _splits(self, gradient: CoefficientGradient) -> dict[int, list[_Split]]:
        """Return by parameter (its id) the ways to the gradients of merged tensors. Raises ModelError."""
        splits: dict[int, list[_Split]] = {}
        apart = []
        for name in gradient.tensors:
            if name in self._parts:
                part = self._parts[name]
                splits.setdefault(id(part.parameter), []).append(partial(_of_part, name, part))
            else:
                apart.append(name)
        buffers = {buffer.untyped_storage().data_ptr() for buffer in self._model.network.buffers()}
        statistics = [name for name in apart if self._model.tensors[name].untyped_storage().data_ptr() in buffers]
        if statistics:
            raise ModelError(
                f"{statistics[0]} is no parameter of {type(self._model.network).__name__} but a buffer (as running "
                "statistics are), for which no gradient is computed: freeze its group, or search without gradients."
            )
        for staged in self._model.conversions:
            wanted = frozenset(name for name in apart if name in staged.tensors)
            for target, place in staged.targets.items() if wanted else ():
                made = self._owners.part(place)
                if made is None or not staged.rearranges:
                    raise ModelError(
                        f"transformers computes {target} from {', '.join(sorted(wanted))} in a way that has no "
                        "gradient here: freeze their groups, or search without gradients."
                    )
                split = partial(_of_staged, staged, target, made, wanted)
                splits.setdefault(id(made.parameter), []).append(split)
        return splits


def _of_part(name: str, part: Part, gradient: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield name, part.of(gradient)


def _of_staged(
    staged: Staged, target: str, part: Part, wanted: Collection[str], gradient: Tensor
) -> Iterator[tuple[str, Tensor]]:
    for name, found in staged.pull_back(target, part.of(gradient)).items():
        if name in wanted:
            yield name, found


def _contract(gradient: CoefficientGradient, splits: list[_Split], parameter: Tensor) -> None:
    """Contract the gradient of a parameter, complete now, and drop it."""
    whole, parameter.grad = parameter.grad, None
    if whole is not None:
        for split in splits:
            for name, part in split(whole):
                gradient.add(name, part)
