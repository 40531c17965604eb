"""Check that Python finds evomerge's own `evaluators` and `search_spaces`, not other packages of these names."""

import importlib.util
from pathlib import Path

PACKAGES = ("evaluators", "search_spaces")


def check_packages() -> None:
    """Raise ImportError if one of the two packages is shadowed or overwritten; imports neither."""
    root = Path(__file__).resolve().parents[2]
    for name in PACKAGES:
        ours = root / name / "__init__.py"
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found != ours:
            raise ImportError(
                f"evomerge needs its own package {name!r}, {ours}, and Python finds {found or 'none'}: another "
                f"distribution or folder of that name comes first on the path. {_REMEDY}"
            )
        if "evomerge" not in ours.read_text(encoding="utf-8"):
            raise ImportError(
                f"{ours} is not evomerge's: another distribution named {name!r} was installed over the one that "
                f"belongs to {root / 'evomerge' / '__init__.py'}. {_REMEDY} Then install evomerge again."
            )


_REMEDY = "Uninstall or rename it, or give evomerge an environment of its own."
