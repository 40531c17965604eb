"""A random order of the examples of several tasks, every prefix of which holds the tasks in proportion."""

from collections.abc import Sequence

import numpy as np

#: Keeps the draws of an order apart from others of the same seed.
_PURPOSE = 0x7ACE


def interleaved(sizes: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """Return pairs (task, row) in one random order per task, the tasks in proportion in every prefix.

    Args:
        sizes: Number of examples of each task.
        seed: Key of the order.

    Example:
        >>> order = interleaved([4, 2], seed=0)
        >>> [task for task, _ in order]
        [0, 1, 0, 0, 1, 0]
    """
    keyed = []
    for task, size in enumerate(sizes):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _PURPOSE, task))))
        for place, row in enumerate(rng.permutation(size)):
            keyed.append(((place + 0.5) / size, task, int(row)))
    return [(task, row) for _, task, row in sorted(keyed)]
