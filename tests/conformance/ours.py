"""Our merges of everything that mergekit and PEFT merge.

python -m tests.conformance.ours
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from evomerge.merging.output.materialize import materialize
from tests.conformance import peft_compare
from tests.conformance.corpus import WORK, Case, read
from tests.conformance.peft_cases import CASES
from tests.conformance.reading import imported, refuses

REFUSALS = WORK / "ours.json"


def merge(names: Sequence[str] = ()) -> dict[str, str | None]:
    """Merge what is named, or all, into folders below WORK/ours; name -> our refusal, or None."""
    return {name: _refusal(run, WORK / "ours" / name) for name, run in _merges() if not names or name in names}


def _merges() -> Iterator[tuple[str, Callable[[Path], object]]]:
    for case in read(WORK / "models"):
        yield case.name, partial(_from_yaml, case)
    for adapters in CASES:
        yield adapters.case().name, partial(peft_compare.write, adapters)


def _from_yaml(case: Case, folder: Path) -> None:
    materialize(imported(case), folder)


def _refusal(run: Callable[[Path], object], folder: Path) -> str | None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run(folder)
    except Exception as error:  # noqa: BLE001 - a fault of ours must not hide the files after it
        ours = "" if refuses(error) else "CRASH "
        return f"{ours}{type(error).__name__}: {' '.join(str(error).split())}".replace(str(WORK.absolute()) + "/", "")
    return None


def main() -> None:
    """Merge all of it."""
    shutil.rmtree(WORK / "ours", ignore_errors=True)
    refusals = merge()
    REFUSALS.write_text(json.dumps(refusals, indent=1))
    refused = sum(refusal is not None for refusal in refusals.values())
    print(f"evomerge merged {len(refusals) - refused} of {len(refusals)} and refused {refused}")


if __name__ == "__main__":
    main()
