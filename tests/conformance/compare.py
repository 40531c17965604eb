"""Our results against mergekit's and PEFT's, and mergekit's of the configurations that ours bring along.

    python -m tests.conformance.compare [NAME ...]

Writes tests/conformance/TABLE.md (all files only) and exits with 1 where a file differs without a reason in EXPECTED.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.conformance import ours
from tests.conformance.corpus import WORK, Case, read
from tests.conformance.difference import Difference, compared, tensors
from tests.conformance.expected import BACK
from tests.conformance.peft_cases import CASES, PeftCase
from tests.conformance.table import Row, write

#: Name -> why we refused to merge it, or None.
Refusals = Mapping[str, str | None]


def with_mergekit(cases: Sequence[Case], refusals: Refusals) -> list[Row]:
    """The rows of the YAML files."""
    results = json.loads((WORK / "mergekit.json").read_text())["results"]
    return [_judged(case, WORK / "mergekit" / case.name, results[case.name], refusals) for case in cases]


def back_to_mergekit(cases: Sequence[Case], refusals: Refusals) -> list[Row]:
    """The rows of the configurations that our results bring along, merged by mergekit."""
    results = json.loads((WORK / "back.json").read_text())["results"]
    return [
        replace(row, case=replace(row.case, name=row.case.name + BACK))
        for row in (_judged(case, WORK / "back" / case.name, results.get(case.name, {}), refusals) for case in cases)
        if row.case.name in results
    ]


def with_peft(cases: Sequence[PeftCase], refusals: Refusals) -> list[Row]:
    """The rows of the adapters."""
    results = json.loads((WORK / "peft.json").read_text())["results"]
    rows = [_judged(case.case(), WORK / "peft" / case.name, results[case.name], refusals) for case in cases]
    for case in cases:
        if case.loaded in results:
            row = _judged(case.case(), WORK / "peft" / case.loaded, results[case.loaded], refusals)
            features = f"the LoRA that we write of {row.case.name}, loaded by PEFT"
            rows.append(
                replace(row, case=replace(row.case, name=f"peft-{case.loaded}", method="fold", features=features))
            )
    return rows


def _judged(case: Case, oracle: Path, theirs: Mapping[str, Any], refusals: Refusals) -> Row:
    folder = WORK / "ours" / case.name
    refusal = refusals[case.name]
    difference = compared(folder, oracle) if refusal is None and oracle.exists() else Difference()
    float32 = refusal is None and any(value.dtype == torch.float32 for value in tensors(folder).values())
    return Row(case, difference, float32, theirs, refusal)


def main(names: Sequence[str]) -> None:
    """Compare the files named, merging them here once more, or all; write the table when all are."""
    refusals = ours.merge(names) if names else json.loads(ours.REFUSALS.read_text())
    cases = [case for case in read(WORK / "models") if case.name in refusals]
    adapters = [case for case in CASES if case.case().name in refusals]
    tables = {"mergekit": with_mergekit(cases, refusals), "peft": with_peft(adapters, refusals)}
    if not names:
        tables["back"] = back_to_mergekit(cases, refusals)
    rows = [row for part in tables.values() for row in part]
    for row in rows:
        if row.verdict() not in ("same", "both refuse") or names:
            print(f"{row.case.name}: {row.verdict()} ({row.difference.relative:.1e}) {row.why()}")
    if not names:
        versions = {tool: json.loads((WORK / f"{tool}.json").read_text())[tool] for tool in ("mergekit", "peft")}
        write(tables, versions, Path(__file__).parent / "TABLE.md")
    bad = [row.case.name for row in rows if row.unexplained()]
    if bad:
        sys.exit(f"{len(bad)} of {len(rows)} differ without a reason: {', '.join(bad)}")
    print(
        f"{len(rows)} merges, {sum(row.difference.n_tensors for row in rows)} tensors: no difference without a reason"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
