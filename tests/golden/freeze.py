"""Freeze anew what the commands say of the golden runs, and print what that changes: `python -m tests.golden.freeze`.

Only on purpose: a difference is a study of yesterday that reads otherwise today.
"""

import tempfile
from pathlib import Path
from typing import Any

from tests.golden.runs import FOLDER, RUNS, differences, frozen, normalized, read, write


def main() -> None:
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            said = normalized(read(name, Path(folder)), Path(folder))
        for file, data in said.items():
            path = FOLDER / name / file
            if path.exists():
                for difference in differences(frozen(path), data):
                    print(f"{name}/{file}: {difference}")
                data = _kept(frozen(path), data)
            write(data, path)


def _kept(old: Any, new: Any) -> Any:
    """Return the new data with the old numbers where they are equal, as last digits differ between processors."""
    if isinstance(old, dict) and isinstance(new, dict):
        same = {key for key, value in new.items() if key in old and not [*differences({key: old[key]}, {key: value})]}
        return {key: old[key] if key in same else _kept(old.get(key), value) for key, value in new.items()}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_kept(a, b) for a, b in zip(old, new, strict=True)]
    return new if [*differences(old, new)] else old


if __name__ == "__main__":
    main()
