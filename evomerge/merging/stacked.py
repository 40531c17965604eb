"""Candidates as one adapter each: the factors of LoRA experts side by side, scaled by a candidate's coefficients.

The sum of c_i B_i A_i is [c_1 B_1, c_2 B_2, ...] [A_1; A_2; ...], an adapter whose rank is the sum of the ranks. The
base stays as it is.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.merging.engine import MergeEngine
from evomerge.merging.models.adapter import PREFIX, Adapted
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.model import Model
from evomerge.merging.models.network_names import NetworkNames
from evomerge.merging.prepared import MergeError
from evomerge.recipe import Merge

#: Components of a block whose matrices are linear layers.
_LINEAR = ("attention", "mlp")


class StackedAdapters:
    """Builds the adapter of a merge. The models must pass `why_not_stacked`.

    engine: The engine of the models. base: the base. inputs: the adapters on it by name, in the engine's order.
    """

    def __init__(self, engine: MergeEngine, base: Model, inputs: Mapping[str, Model]) -> None:
        self._engine = engine
        spelled = NetworkNames(base).renamed
        #: Tensor -> its module's name in the adapter, both factors, and the input of each rank.
        self._stacks: dict[str, tuple[str, Tensor, Tensor, Tensor]] = {}
        for name in _changed(base, inputs):
            parts = [model.factors(name, base) for model in inputs.values()]
            factors = [(index, part) for index, part in enumerate(parts) if part is not None and part.rank]
            left = torch.cat([part.left.float() * part.scale for _, part in factors], dim=1)
            right = torch.cat([part.right for _, part in factors])
            inputs_of = torch.cat([torch.full((part.rank,), index) for index, part in factors])
            module = PREFIX + spelled.get(name, name).removesuffix(".weight")
            self._stacks[name] = module, left, right, inputs_of

    @property
    def rank(self) -> int:
        """The largest rank of a matrix's change."""
        return max((len(right) for _, _, right, _ in self._stacks.values()), default=0)

    def tensors(self, merge: Merge) -> dict[str, Tensor]:
        """Return the adapter of a merge by PEFT's names; its `lora_alpha` is its rank.

        Raises MergeError for a merge that is not the base plus a sum of the adapters' changes.
        """
        coefficients = self._engine.of_deltas(merge)
        if coefficients is None:
            raise MergeError(f"{merge.recipe.method} is no sum of the adapters' changes to the base.")
        found = {}
        for name, (module, left, right, inputs_of) in self._stacks.items():
            scales = torch.tensor(coefficients[name], dtype=torch.float64)[inputs_of]
            found[f"{module}.lora_A.weight"] = right
            found[f"{module}.lora_B.weight"] = (left * scales).float()
        return found


def why_not_stacked(base: Model, inputs: Mapping[str, Model]) -> str | None:
    """Return why candidates cannot be adapters on the base as stored, as a clause; None if they can."""
    if not isinstance(base, Checkpoint):
        return "the base is constructed (an adapter on it, another vocabulary, rearranged blocks)"
    for name, model in inputs.items():
        why = model.why_not_low_rank(base) if isinstance(model, Adapted) else "is no adapter (LoRA) on the base"
        if why is not None:
            return f"{name} {why}"
    layout = base.layout()
    places = dict(zip(layout.names, zip(layout.blocks, layout.components, strict=True), strict=True))
    spellings = NetworkNames(base)
    for name in _changed(base, inputs):
        block, component = places[name]
        if block is None or component not in _LINEAR or "expert" in name or not name.endswith(".weight"):
            return f"an adapter changes {name}, which is no linear layer of a dense block"
        if spellings.network is not None and name not in spellings.renamed:
            return f"transformers makes other tensors out of {name}"
    return None


def rank_of(base: Model, inputs: Mapping[str, Model]) -> int:
    """Return the largest rank of a matrix's change under all adapters; reads no weights."""
    changed = _changed(base, inputs)
    ranks = ((model.factors(name, base) for model in inputs.values()) for name in changed)
    return max((sum(part.rank for part in parts if part is not None) for parts in ranks), default=0)


def _changed(base: Model, inputs: Mapping[str, Model]) -> list[str]:
    """Return the tensors that an adapter changes, in the base's order."""
    return [name for name in base.names if any(model.made(name) for model in inputs.values())]
