"""Human-readable numbers of bytes."""


def size(count: float) -> str:
    """Format a number of bytes with three digits: `271 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
