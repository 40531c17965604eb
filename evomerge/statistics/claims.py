"""Correction for multiple claims (Holm, 1979). https://www.jstor.org/stable/4615733"""

from collections.abc import Mapping

#: Smaller p-values are not printed: the tests are not exact that far out.
SMALLEST_P = 0.0001


def p_text(value: float, name: str = "") -> str:
    """Format a p-value: `0.031` or `<0.0001` for a column; with a name `p = 0.031` or `p < 0.0001` for a sentence."""
    number, relation = (f"{value:.2g}", "=") if value >= SMALLEST_P else (f"{SMALLEST_P:.4f}", "<")
    if name:
        return f"{name} {relation} {number}"
    return number if relation == "=" else relation + number


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values: among all claims below 5 % there is a wrong one in at most 5 % of studies.

    The i-th smallest of m is multiplied by m - i + 1, and none is smaller than its predecessor.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
