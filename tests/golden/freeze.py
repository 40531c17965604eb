"""Freeze anew what the commands say of the golden runs, and print what that changes: `python -m tests.golden.freeze`.

Only on purpose: a difference is a study of yesterday that reads otherwise today.
"""

import tempfile
from pathlib import Path

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
            write(data, path)


if __name__ == "__main__":
    main()
