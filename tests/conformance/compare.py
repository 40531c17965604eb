"""Our results for the corpus against mergekit's: every tensor, and what else belongs to a model.

    python -m tests.conformance.compare [NAME ...]

Writes tests/conformance/TABLE.md (all files only) and exits with 1 where a file differs without a reason in EXPECTED.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from evomerge.merging.materialize import materialize
from tests.conformance.corpus import WORK, Case, read
from tests.conformance.expected import EXPECTED
from tests.conformance.reading import imported, refuses
from tests.conformance.table import Row, write

#: Largest difference over the largest magnitude of a tensor: float32 arithmetic in another order; else one unit in
#: the last place, on which two float32 results that are equal up to 1e-6 may come down on either side.
LIMITS = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
#: Entries of config.json that a merge decides on.
DECIDED = ("num_hidden_layers", "vocab_size", "dtype", "tie_word_embeddings")


@dataclass(frozen=True)
class Difference:
    """What was compared of two folders, and what is not the same. relative: of the worst tensor."""

    n_tensors: int
    relative: float
    faults: tuple[str, ...]


def compared(ours: Path, theirs: Path) -> Difference:
    """Every tensor and the decided entries of the configuration, tokenizer and chat template of two folders."""
    mine, other = _tensors(ours), _tensors(theirs)
    faults = [f"{name} is missing here" for name in other.keys() - mine.keys()]
    faults += [f"{name} is missing there" for name in mine.keys() - other.keys()]
    rows = _matching_rows(ours, theirs)
    worst = 0.0
    names = sorted(mine.keys() & other.keys())
    for name in names:
        mine_now, other_now = mine[name], other[name]
        if rows is not None and _has_tokens(name):
            mine_now = mine_now[rows] if len(rows) == len(mine_now) else mine_now
        if mine_now.shape != other_now.shape or mine_now.dtype != other_now.dtype:
            faults.append(f"{name} is {_looks(mine_now)} here, {_looks(other_now)} there")
            continue
        relative = _relative(mine_now, other_now)
        worst = max(worst, relative)
        if not relative <= LIMITS[other_now.dtype]:
            faults.append(f"{name} differs by {relative:.1e}")
    faults += _other_faults(ours, theirs)
    return Difference(len(names), worst, tuple(sorted(faults)))


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


def _relative(mine: Tensor, other: Tensor) -> float:
    difference = (mine.double() - other.double()).abs().max().item()
    return difference / max(other.double().abs().max().item(), 1e-30) if difference else 0.0


def _has_tokens(name: str) -> bool:
    return name in ("model.embed_tokens.weight", "lm_head.weight")


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


def _merged(case: Case, folder: Path) -> str | None:
    """Merge a file with evomerge; the refusal, or None."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        materialize(imported(case), folder)
    except Exception as error:  # noqa: BLE001 - a fault of ours must not hide the files after it
        ours = "" if refuses(error) else "CRASH "
        return f"{ours}{type(error).__name__}: {' '.join(str(error).split())}".replace(str(WORK.absolute()) + "/", "")
    return None


def judged(case: Case, theirs: Mapping[str, Any]) -> Row:
    """One row of the table."""
    folder, oracle = WORK / "ours" / case.name, WORK / "mergekit" / case.name
    refusal = _merged(case, folder)
    difference = Difference(0, 0.0, ())
    if refusal is None and oracle.exists():
        difference = compared(folder, oracle)
    float32 = refusal is None and any(value.dtype == torch.float32 for value in _tensors(folder).values())
    return Row(case, difference.n_tensors, difference.relative, float32, theirs, refusal, difference.faults)


def main(names: list[str]) -> None:
    """Compare the files named, or all; write the table when all are."""
    answer = json.loads((WORK / "mergekit.json").read_text())
    results = answer["results"]
    cases = [case for case in read(WORK / "models") if not names or case.name in names]
    rows = [judged(case, results[case.name]) for case in cases]
    for row in rows:
        if row.verdict(EXPECTED) not in ("same", "both refuse") or names:
            print(f"{row.case.name}: {row.verdict(EXPECTED)} ({row.relative:.1e}) {row.why(EXPECTED)}")
    if not names:
        write(rows, EXPECTED, answer["mergekit"], Path(__file__).parent / "TABLE.md")
    bad = [row.case.name for row in rows if row.unexplained(EXPECTED)]
    if bad:
        sys.exit(f"{len(bad)} of {len(rows)} files differ without a reason: {', '.join(bad)}")
    print(f"{len(rows)} files, {sum(row.n_tensors for row in rows)} tensors: no difference without a reason")


if __name__ == "__main__":
    main(sys.argv[1:])
