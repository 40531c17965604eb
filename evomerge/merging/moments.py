"""Statistics of one model on calibration data, in a safetensors file: inputs of Fisher, RegMean and MaTS.

A tensor `fisher/NAME` is the second moment of the loss's gradient with respect to the parameter NAME, with its
shape; `gram/NAME` is the second moment (in x in) of the inputs of the linear layer with weight NAME, and
`gram_out/NAME` that of the gradient (out x out) of its outputs. `transposed/NAME` marks a layer whose weight is
stored as in x out, like GPT-2's. `mask/NAME`, with the shape of NAME, are factors of the elements of its delta, as
`evomerge tools mask` learns them. The file's metadata identify the model: `evomerge.model`, its fingerprint, and
`evomerge.source`, the name of its folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.models.header import CheckpointError, read_header
from evomerge.merging.tiles import TensorSource

#: Metadata keys.
MODEL, SOURCE = "evomerge.model", "evomerge.source"
KINDS = ("fisher", "gram", "gram_out", "transposed", "mask")


def command_for(kind: str) -> str:
    """Return the command that collects statistics of a kind."""
    if kind == "mask":
        return "evomerge tools mask BASE MODEL --data FILE -o FOLDER"
    return "evomerge tools calibrate MODEL --data FILE -o S.safetensors"


class MomentsFile:
    """The statistics of a model by kind and tensor, memory-mapped from their file. Raises CheckpointError.

    model, source: fingerprint and name of the model that they were collected on, None if the file does not say.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: expected statistics that `evomerge tools calibrate` wrote.")
        self.path = path
        self.names = frozenset(read_header(path))
        self.kinds = frozenset(name.partition("/")[0] for name in self.names)
        stranger = next((name for name in sorted(self.names) if name.partition("/")[0] not in KINDS), None)
        if stranger is not None:
            raise CheckpointError(
                f"{path} holds {stranger!r}, which is not a statistic: expected names that begin with "
                f"{', '.join(kind + '/' for kind in KINDS)}, as `evomerge tools calibrate` and `evomerge tools mask` "
                "write them."
            )
        file: Any = safe_open(path, framework="pt")
        self._file = file
        metadata: Mapping[str, str] = file.metadata() or {}
        self.model, self.source = metadata.get(MODEL), metadata.get(SOURCE)

    def tensor(self, kind: str, name: str) -> Tensor | None:
        """Return the statistic of this kind for a tensor, or None if there is none."""
        if f"{kind}/{name}" not in self.names:
            return None
        try:
            tensor: Tensor = self._file.get_tensor(f"{kind}/{name}")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path}: statistic {kind}/{name} cannot be read: {error}.") from error
        return tensor


def input_moments(source: TensorSource, kind: str, shape: Sequence[int]) -> list[Tensor] | None:
    """Return the statistic of every input for a tensor, as stored; None if no input has one.

    Raises MethodError if only some have it, and for another shape than `shape`.
    """
    found = {name: source.moment(kind, index) for index, name in enumerate(source.input_names)}
    there = {name: moment for name, moment in found.items() if moment is not None}
    if not there:
        return None
    if len(there) < len(found):
        lacking = ", ".join(name for name in found if name not in there)
        raise MethodError(
            f"{source.tensor}: {', '.join(there)} have the statistic {kind!r}, {lacking} do not: "
            f"collect the statistics of all inputs in the same way."
        )
    for name, moment in there.items():
        if tuple(moment.shape) != tuple(shape):
            raise MethodError(
                f"{source.tensor}: the statistic {kind!r} of {name} has shape {tuple(moment.shape)}, expected "
                f"{tuple(shape)}: it was collected from another model."
            )
    return list(there.values())
