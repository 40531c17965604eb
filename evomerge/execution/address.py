"""Names of Ray clusters in search files and in the environment."""

import os

#: Values of `ray_address` that are no address: the cluster of this machine or job, and a private Ray on this machine.
AUTO, LOCAL = "auto", "local"


def from_environment() -> str:
    """Return RAY_ADDRESS, which Ray sets in jobs; empty if it is unset, or a URL, where jobs are submitted."""
    named = os.environ.get("RAY_ADDRESS", "")
    return "" if "://" in named else named


def names_cluster(given: str | None) -> bool:
    """Return whether `ray_address` or the environment names a cluster. given: None where the file has no address."""
    return (from_environment() if given is None else given) not in ("", LOCAL)
