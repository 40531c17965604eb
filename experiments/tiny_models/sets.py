"""The two sets of models: `DEMO` for searches (minutes), `TINY` for the tests (seconds)."""

import torch

from .prepare import Expert, ModelSet
from .tasks import count, find, largest, reverse, sort
from .train import Network, Schedule

# Found by trial. The experts differ in strength: what `find` learns costs the other tasks most, so that weights
# which are equal for all experts are far from the best ones. At ten times these rates nothing merges.
DEMO = ModelSet(
    network=Network(hidden=128, layers=5, heads=4),
    tasks=(count(14), find(4), reverse(5), sort(7)),
    base=Schedule(steps=125, learning_rate=2e-3),
    experts={
        "count": Expert(Schedule(steps=200, learning_rate=2e-4, batch=48)),
        "find": Expert(Schedule(steps=300, learning_rate=3e-4, batch=48)),
        "reverse": Expert(Schedule(steps=200, learning_rate=2e-4, batch=48), dtype=torch.bfloat16),
        "sort": Expert(Schedule(steps=200, learning_rate=1.5e-4, batch=48), shard_size="1MB"),
    },
    n_examples={"count": 500, "find": 500, "reverse": 500, "sort": 500},
)

TINY = ModelSet(
    network=Network(hidden=48, layers=3, heads=4),
    tasks=(count(10), largest(5), sort(3)),
    base=Schedule(steps=80, learning_rate=4e-3),
    experts={
        "count": Expert(Schedule(steps=40, learning_rate=1e-3)),
        "largest": Expert(Schedule(steps=40, learning_rate=1e-3), shard_size="100KB"),
        "sort": Expert(Schedule(steps=60, learning_rate=1e-3), dtype=torch.bfloat16),
    },
    n_examples={"count": 120, "largest": 120, "sort": 60},
)
