"""A cache of results between merges, keyed by their inputs."""

from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")


def remembered(
    cache: MutableMapping[Hashable, Any], kind: Hashable, key: Hashable, make: Callable[[], T], keep: int = 1
) -> T:
    """Return the result of `make` for this key, computed once.

    The cache keeps the last `keep` keys of a kind, and drops the oldest before it computes another.
    """
    entries: dict[Hashable, T] = cache.setdefault(kind, {})
    if key not in entries:
        while len(entries) >= keep:
            del entries[next(iter(entries))]
        entries[key] = make()
    return entries[key]
