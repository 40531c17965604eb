"""The tensors of an adapter (LoRA) made from a merge, under the names used by PEFT and transformers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.merging.factors import Factors
from evomerge.merging.models.adapter import PREFIX, stored_by_input
from evomerge.merging.models.model import SPEAKING, Model
from evomerge.merging.models.network_names import NetworkNames
from evomerge.merging.output.lora_approximation import Approximation, approximate
from evomerge.merging.output.lora_report import LoraReport
from evomerge.merging.prepared import MergeError
from evomerge.merging.tiles import Workers

#: Float32 rounding errors in a merged weight: of the folded input, and of the merge.
_ROUNDINGS = 4 * 2.0**-24


class LoraWeights:
    """An adapter on `base`, built tensor by tensor.

    rank: of every factor. whole: store modules without factors (norms, embeddings) whole, `modules_to_save`.
    tensors: the adapter's, by their names in its file. Raises MergeError for a rank larger than any weight's.
    """

    def __init__(self, base: Model, rank: int, *, whole: bool) -> None:
        layout = base.layout()
        self.tensors: dict[str, Tensor] = {}
        self._base, self._rank, self._whole = base, rank, whole
        self._components = dict(zip(layout.names, layout.components, strict=True))
        spellings = NetworkNames(base)
        self._renamed = spellings.renamed
        self._modules: Mapping[str, nn.Module] = dict(spellings.network.named_modules()) if spellings.network else {}
        self._check_rank()
        self._found: dict[str, Approximation] = {}
        self._rest: dict[str, float] = {}
        self._merged: dict[str, Tensor] = {}
        self._saved: dict[str, float] = {}

    def add(self, name: str, merged: Tensor, change: Tensor, parts: Sequence[Factors | None]) -> None:
        """Add a changed tensor: factors for a linear layer's weight; other changed tensors are kept for later.

        parts: each input's own change, see `Model.factors`.
        """
        if not self._has_factors(name):
            self._rest[name] = float(torch.linalg.norm(change.double()))
            if self._whole:
                self._merged[name] = merged
            return
        known = [] if any(part is None for part in parts) else [part for part in parts if part and part.rank]
        by_input = known[0].transposed if known else self._by_input and self._components[name] != "head"
        noise = _ROUNDINGS * float(torch.linalg.norm(merged.double()))
        turned = change.T if by_input else change
        made = Workers(1).alone(lambda: approximate(turned, self._rank, known, noise))
        module = PREFIX + self._module(name)
        self.tensors |= {f"{module}.lora_A.weight": made.right, f"{module}.lora_B.weight": made.left}
        self._found[name] = made

    def _has_factors(self, name: str) -> bool:
        linear = len(self._base.shape(name)) == 2 and name.endswith(".weight")
        # T5 stores the biases of its attention in an embedding.
        looked_up = isinstance(self._modules.get(self._module(name)), nn.Embedding)
        return linear and not looked_up and self._components[name] not in ("embedding", "norm")

    def _check_rank(self) -> None:
        sides = {name: min(self._base.shape(name)) for name in self._components if self._has_factors(name)}
        largest = max(sides, key=lambda name: sides[name], default="")
        if largest and self._rank > sides[largest]:
            shape = self._base.shape(largest)
            raise MergeError(
                f"The rank of the LoRA is {self._rank}, and no weight of the base has more than {sides[largest]} (the "
                f"smaller side of {largest}, {shape[0]} x {shape[1]}): use a rank of at most {sides[largest]}."
            )

    def save_whole(self) -> None:
        """Store the remaining modules whole in the adapter, with all of their tensors, as PEFT reads them."""
        for own in self._savable():
            self._saved[self._module(own[0])] = math.hypot(*(self._rest.pop(name, 0.0) for name in own))
            for name in own:
                tensor = self._merged[name] if name in self._merged else self._base.tensor(name).clone()
                self.tensors[PREFIX + self._name(name)] = tensor

    def _savable(self) -> list[list[str]]:
        """Return the remaining modules that can be stored whole, each as the names of its tensors."""
        layers = {name.rpartition(".")[0] for name in self._found}
        tied = self._base.vocabulary_matrices() if self._base.tied else []
        modules = dict.fromkeys(name.rpartition(".")[0] for name in self._rest)
        found = [[name for name in self._base.names if name.rpartition(".")[0] == module] for module in modules]
        return [own for own in found if own[0].rpartition(".")[0] not in layers and not any(n in tied for n in own)]

    def settings(self) -> dict[str, Any]:
        """Return adapter_config.json, without the location of the base."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM" if self._base.has_architecture(SPEAKING[:2]) else None,
            "r": self._rank,
            "lora_alpha": self._rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": self._by_input,
            "inference_mode": True,
            "init_lora_weights": True,
            "target_modules": self._targets(),
            "modules_to_save": list(self._saved) or None,
        }

    def report(self) -> LoraReport:
        """Return how much of the change the adapter contains."""
        error = math.hypot(*(made.error for made in self._found.values()))
        size = math.hypot(*(made.size for made in self._found.values()))
        everything = math.hypot(size, *self._rest.values(), *self._saved.values())
        sizes = {name: float(torch.linalg.norm(self._base.tensor(name).double())) for name in self._rest}
        return LoraReport(
            rank=self._rank,
            error=_ratio(error, size),
            missing=_ratio(math.hypot(error, *self._rest.values()), everything),
            layers={name: _ratio(made.error, made.size) for name, made in self._found.items()},
            left_out={name: _ratio(change, sizes[name]) for name, change in self._rest.items()},
            saved=tuple(self._saved),
            savable=tuple(self._module(own[0]) for own in self._savable()),
        )

    @property
    def _by_input(self) -> bool:
        return bool(stored_by_input(self._base))

    def _name(self, name: str) -> str:
        """Return a tensor's name in the network that transformers builds, or in the files if it is converted."""
        return self._renamed.get(name, name)

    def _module(self, name: str) -> str:
        return self._name(name).rpartition(".")[0]

    def _targets(self) -> list[str]:
        """Return the last parts of the modules' names if unique, as adapters usually have them; else all."""
        modules = list(dict.fromkeys(self._module(name) for name in self._found))
        ends = dict.fromkeys(module.rpartition(".")[2] for module in modules)
        everything = dict.fromkeys(self._module(name) for name in self._base.names)
        alike = [module for module in everything if module.rpartition(".")[2] in ends]
        return sorted(ends) if len(alike) == len(modules) else modules


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
