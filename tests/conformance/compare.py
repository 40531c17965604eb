"""Our results against mergekit's and PEFT's: every tensor, and what else belongs to a model.

    python -m tests.conformance.compare [NAME ...]

Writes tests/conformance/TABLE.md (all files only) and exits with 1 where a file differs without a reason in EXPECTED.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from evomerge.merging.materialize import materialize
from evomerge.recipe import Merge
from tests.conformance import peft_compare
from tests.conformance.corpus import WORK, Case, read
from tests.conformance.expected import EXPECTED
from tests.conformance.peft_cases import CASES
from tests.conformance.reading import imported, refuses
from tests.conformance.table import Difference, Row, write

#: Largest difference over the largest magnitude of a tensor: float32 arithmetic in another order; else one unit in
#: the last place, on which two float32 results that are equal up to 1e-6 may come down on either side.
LIMITS = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
WITH_TOKENS = ("model.embed_tokens.weight", "lm_head.weight")
#: Entries of config.json that a merge decides on.
DECIDED = ("num_hidden_layers", "vocab_size", "dtype", "tie_word_embeddings")


def compared(ours: Path, theirs: Path) -> Difference:
    """Every tensor and the decided entries of the configuration, tokenizer and chat template of two folders."""
    mine, other = _tensors(ours), _tensors(theirs)
    faults = [f"{name} is missing here" for name in sorted(other.keys() - mine.keys())]
    faults += [f"{name} is missing there" for name in sorted(mine.keys() - other.keys())]
    rows = _matching_rows(ours, theirs)
    found: dict[str, tuple[float, int]] = {}
    for name in sorted(mine.keys() & other.keys()):
        here, there = mine[name], other[name]
        if here.shape != there.shape or here.dtype != there.dtype:
            faults.append(f"{name} is {_looks(here)} here, {_looks(there)} there")
        else:
            found[name] = _deviation(here[rows] if rows is not None and name in WITH_TOKENS else here, there)
    n_elements = sum(other[name].numel() for name in found)
    return Difference(
        len(found),
        max((relative for relative, _ in found.values()), default=0.0),
        sum(count for _, count in found.values()) / max(n_elements, 1),
        tuple(f"{name} differs by {relative:.1e}" for name, (relative, count) in found.items() if count),
        (*faults, *_other_faults(ours, theirs)),
    )


def _deviation(here: Tensor, there: Tensor) -> tuple[float, int]:
    """Largest deviation of a tensor over its largest magnitude, and how many elements are beyond the limit."""
    same = (here == there) | (here.isnan() & there.isnan())
    deviation = (here.double() - there.double()).abs().masked_fill(same, 0.0).nan_to_num(nan=float("inf"))
    largest = max(float(there.double().abs().max()), 1e-30)
    return float(deviation.max()) / largest, int((deviation > LIMITS[there.dtype] * largest).sum())


def _other_faults(ours: Path, theirs: Path) -> list[str]:
    faults = []
    if (theirs / "config.json").exists():
        here, there = (json.loads((folder / "config.json").read_text()) for folder in (ours, theirs))
        faults = [
            f"{key} is {here.get(key)} here, {there.get(key)} there"
            for key in DECIDED
            if here.get(key) != there.get(key)
        ]
    if (theirs / "tokenizer.json").exists():
        if _vocabulary(ours).keys() != _vocabulary(theirs).keys():
            faults.append("the tokenizers have other tokens")
        if _special(ours) != _special(theirs):
            faults.append("other tokens are special")
        if _template(ours) != _template(theirs):
            faults.append("the chat templates differ")
    return faults


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def _matching_rows(ours: Path, theirs: Path) -> Tensor | None:
    """Our row of each of their rows, by token, where the vocabularies number the same tokens in another way."""
    if not (theirs / "tokenizer.json").exists():
        return None
    mine, other = _vocabulary(ours), _vocabulary(theirs)
    if mine == other or mine.keys() != other.keys():
        return None
    rows = torch.arange(_tensors(theirs)["model.embed_tokens.weight"].shape[0])
    for token, row in other.items():
        rows[row] = mine[token]
    return rows


def _vocabulary(folder: Path) -> Mapping[str, int]:
    tokenizer: Mapping[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return tokenizer


def _special(folder: Path) -> set[str]:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    return {token["content"] for token in added if token["special"]}


def _template(folder: Path) -> str:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text().strip()
    settings: Mapping[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    return str(settings.get("chat_template") or "").strip()


def _looks(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _refusal(merge: Callable[[Path], None], folder: Path) -> str | None:
    """Write our merge to `folder`; the refusal, or None."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        merge(folder)
    except Exception as error:  # noqa: BLE001 - a fault of ours must not hide the files after it
        ours = "" if refuses(error) else "CRASH "
        return f"{ours}{type(error).__name__}: {' '.join(str(error).split())}".replace(str(WORK.absolute()) + "/", "")
    return None


def judged(case: Case, merge: Callable[[Path], None], oracle: Path, theirs: Mapping[str, Any]) -> Row:
    """One row of the table: our merge against the folder of the other's."""
    folder = WORK / "ours" / case.name
    refusal = _refusal(merge, folder)
    difference = compared(folder, oracle) if refusal is None and oracle.exists() else Difference()
    float32 = refusal is None and any(value.dtype == torch.float32 for value in _tensors(folder).values())
    return Row(case, difference, float32, theirs, refusal)


def with_mergekit(names: Sequence[str]) -> list[Row]:
    """The rows of the YAML files named, or of all."""
    results = json.loads((WORK / "mergekit.json").read_text())["results"]
    return [
        judged(
            case,
            lambda folder, case=case: _materialized(imported(case), folder),
            WORK / "mergekit" / case.name,
            results[case.name],
        )
        for case in read(WORK / "models")
        if not names or case.name in names
    ]


def with_peft(names: Sequence[str]) -> list[Row]:
    """The rows of the combinations of adapters named, or of all."""
    results = json.loads((WORK / "peft.json").read_text())["results"]
    return [
        judged(
            case.case(),
            lambda folder, case=case: peft_compare.write(case, folder),
            WORK / "peft" / case.name,
            results[case.name],
        )
        for case in CASES
        if not names or case.case().name in names
    ]


def _materialized(merge: Merge, folder: Path) -> None:
    materialize(merge, folder)


def main(names: Sequence[str]) -> None:
    """Compare the files named, or all; write the table when all are."""
    tables = {"mergekit": with_mergekit(names), "peft": with_peft(names)}
    rows = [row for part in tables.values() for row in part]
    for row in rows:
        if row.verdict(EXPECTED) not in ("same", "both refuse") or names:
            print(f"{row.case.name}: {row.verdict(EXPECTED)} ({row.difference.relative:.1e}) {row.why(EXPECTED)}")
    if not names:
        versions = {tool: json.loads((WORK / f"{tool}.json").read_text())[tool] for tool in tables}
        write(tables, EXPECTED, versions, Path(__file__).parent / "TABLE.md")
    bad = [row.case.name for row in rows if row.unexplained(EXPECTED)]
    if bad:
        sys.exit(f"{len(bad)} of {len(rows)} differ without a reason: {', '.join(bad)}")
    print(
        f"{len(rows)} merges, {sum(row.difference.n_tensors for row in rows)} tensors: no difference without a reason"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
