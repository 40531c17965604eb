"""The environment that a study records: what its numbers depend on besides the search file."""

import platform
from importlib.metadata import version


def environment() -> dict[str, str]:
    """Versions that the numbers depend on; no host name, no path."""
    packages = ("evomerge", "torch", "transformers", "lm_eval", "optuna", "cmaes", "ray", "numpy", "scipy")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: version(package) for package in packages},
    }
