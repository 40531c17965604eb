"""Nodes of a cluster, and how many workers have room on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.text.sizes import size

#: Resources are sums of fractions: 4 workers with 0.25 of a GPU fit on one.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Resources:
    """What a node has, or a worker takes. memory: in bytes."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0

    def holds(self, worker: "Resources") -> int:
        """Return how many workers fit.

        Example:
            >>> Resources(cpus=8, gpus=2).holds(Resources(cpus=1, gpus=0.5))
            4
        """
        pairs = ((self.cpus, worker.cpus), (self.gpus, worker.gpus), (self.memory, worker.memory))
        return max(0, min((math.floor(has / needs + _ROUNDING) for has, needs in pairs if needs > 0), default=0))

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} {'CPU' if self.cpus == 1 else 'CPUs'}"]
        parts += [f"{self.gpus:g} {'GPU' if self.gpus <= 1 else 'GPUs'}"] if self.gpus else []
        parts += [f"{size(int(self.memory))} of memory"] if self.memory else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's name of it; a node that returns has another one.
        name: Its address, and a number where several nodes have the same.
        total: The resources of the node.
        free: The resources that are unused at the moment.
        draining: It will be taken away soon: what runs there goes on, but nothing new should start.
    """

    id: str
    name: str
    total: Resources
    free: Resources
    draining: bool = False


def capacity(nodes: Sequence[Node], worker: Resources) -> int:
    """Return how many workers fit on nodes that are not about to go, whatever else runs there."""
    return sum(node.total.holds(worker) for node in nodes if not node.draining)
