"""Statistics from data of one model, in one safetensors file: what Fisher, RegMean and MaTS merge with.

A tensor `fisher/NAME` there is the second moment of the loss's gradient with respect to the parameter NAME, of
its shape; `gram/NAME` the second moment (in x in) of what a linear layer reads whose weight is NAME, and
`gram_out/NAME` that of the gradient (out x out) of what it writes.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.merging.header import CheckpointError, read_header

KINDS = ("fisher", "gram", "gram_out")


class MomentsFile:
    """The statistics of a model by kind and tensor, mapped from their file. Raises CheckpointError."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: expected statistics that `evomerge statistics` wrote.")
        self.path = path
        self.names = frozenset(read_header(path))
        self.kinds = frozenset(name.partition("/")[0] for name in self.names)
        stranger = next((name for name in sorted(self.names) if name.partition("/")[0] not in KINDS), None)
        if stranger is not None:
            raise CheckpointError(
                f"{path} holds {stranger!r}, which is no statistic: expected names that begin with "
                f"{', '.join(kind + '/' for kind in KINDS)}, as `evomerge statistics` writes them."
            )
        self._file: Any = safe_open(path, framework="pt")

    def tensor(self, kind: str, name: str) -> Tensor | None:
        """The statistic of this kind for a tensor, or None where there is none."""
        if f"{kind}/{name}" not in self.names:
            return None
        try:
            tensor: Tensor = self._file.get_tensor(f"{kind}/{name}")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path}: statistic {kind}/{name} cannot be read: {error}.") from error
        return tensor
