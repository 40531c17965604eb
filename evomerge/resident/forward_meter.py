"""Measures the forward passes of a network: their seconds, and the positions that they compute."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from evomerge.resident.machine_limits import synchronize


@dataclass
class ForwardMeter:
    """Sums over the passes of a network, see `measured`.

    Attributes:
        passes: Number of forward passes.
        seconds: Time in them; on a GPU until it has computed them.
        positions: Tokens computed, padding included; 0 for networks that take no tokens.
    """

    passes: int = 0
    seconds: float = 0.0
    positions: int = 0
    _began: float = field(default=0.0, repr=False)

    @contextmanager
    def measured(self, network: nn.Module) -> Iterator[None]:
        """Measure the passes of a network within the context."""
        device = next((parameter.device for parameter in network.parameters()), "cpu")

        def before(_module: nn.Module, positional: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            tokens = named.get("input_ids", positional[0] if positional else None)
            self.positions += tokens.numel() if isinstance(tokens, Tensor) and not tokens.is_floating_point() else 0
            synchronize(device)
            self._began = time.perf_counter()

        def after(_module: nn.Module, _inputs: tuple[Any, ...], _output: Any) -> None:
            synchronize(device)
            self.seconds += time.perf_counter() - self._began
            self.passes += 1

        hooks = network.register_forward_pre_hook(before, with_kwargs=True), network.register_forward_hook(after)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
