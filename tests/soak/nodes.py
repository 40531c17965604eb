"""The nodes of a Ray cluster in a network of its own, which come and go while a search runs on them."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.cluster.clusters import MEMORY, TestCluster, cluster

#: Nodes of one CPU besides the head: at the begin, and at most.
BEGIN, MOST = 2, 3
#: Seconds between the announcement that a node is taken away and its end, and for which there is no node at all.
NOTICE, NONE = 10.0, 5.0


@dataclass
class Nodes:
    """The nodes of a cluster. present: the numbers of those that are there."""

    cluster: TestCluster
    present: list[int] = field(default_factory=lambda: list(range(BEGIN)))
    _added: int = BEGIN

    def faults(self, *, progressed: bool) -> list[str]:
        """Return the names of what can happen now. progressed: whether a node may be lost."""
        return ["node drained", "node killed"] * progressed + ["node joins"] * (len(self.present) < MOST)

    def provoke(self, name: str, rng: random.Random) -> str:
        """Let it happen, and return its name. One node is there afterwards, so that every search can end."""
        if name == "node joins":
            self._join()
            return name
        number = self.present.pop(rng.randrange(len(self.present)))
        if name == "node drained":
            self.cluster.call("drain", number, NOTICE)
            time.sleep(NOTICE)
        self.cluster.call("kill", number)
        if self.present:
            return name
        time.sleep(NONE)
        self._join()
        return f"{name}, the last one, and replaced"

    def _join(self) -> None:
        self.cluster.call("add", 1, MEMORY)
        self.present.append(self._added)
        self._added += 1


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster for one search."""
    with cluster(BEGIN) as made:
        yield Nodes(made)
