"""Several claims at once (Holm, 1979). https://www.jstor.org/stable/4615733"""

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values under the same names: of all claims with one below 5 %, any is wrong in at most 5 % of studies.

    The i-th smallest of m is multiplied by m - i + 1, and none is smaller than one before it.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
