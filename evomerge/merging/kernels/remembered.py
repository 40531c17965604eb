"""Results that are kept from one merge to the next, by what they were computed from."""

from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")


def remembered(
    cache: MutableMapping[Hashable, Any], kind: Hashable, key: Hashable, make: Callable[[], T], keep: int = 1
) -> T:
    """What `make` gives for this key, made once.

    The cache keeps the last `keep` keys of a kind, and lets the oldest go before another is made.
    """
    entries: dict[Hashable, T] = cache.setdefault(kind, {})
    if key not in entries:
        while len(entries) >= keep:
            del entries[next(iter(entries))]
        entries[key] = make()
    return entries[key]
