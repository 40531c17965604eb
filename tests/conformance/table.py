"""TABLE.md: what came out for every file of the corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.corpus import Case

HEAD = """# mergekit conformance

`make conformance` merges the same tiny models (a Llama and a Qwen2 of four layers, fine-tunes of them with exact zeros,
relatives with other vocabularies, depths and types, LoRA adapters) with mergekit {mergekit} and with evomerge, from the
same YAML files (`tests/conformance/yaml`), and compares every tensor, the layers, vocabulary, type and tying in
`config.json`, the tokenizer's tokens and its chat template. It wrote this table.

* The difference is the largest of all tensors: of each, its largest deviation over its largest magnitude. Float32
  results must agree up to 1e-6, bfloat16 and float16 up to one unit in the last place.
* Rows of embeddings are matched by token: mergekit numbers several new tokens at random.
* Random methods (marked *masks*): mergekit draws from torch's global generator. In its place it gets our uniform random
  numbers, which it compares with the probabilities that it computed itself; everything else is mergekit's.

{summary}

| file | method | features | tensors | difference | verdict |
|---|---|---|---:|---:|---|
"""


@dataclass(frozen=True)
class Row:
    """What came out for one file. theirs: mergekit's entry; refusal: our error; faults: what differs."""

    case: Case
    n_tensors: int
    relative: float
    float32: bool
    theirs: Mapping[str, Any]
    refusal: str | None
    faults: tuple[str, ...]

    def verdict(self, expected: Mapping[str, str]) -> str:
        """The word for it."""
        if "error" in self.theirs:
            return "both refuse" if self.refusal else "mergekit fails"
        if self.refusal:
            return "refused here"
        if self.faults:
            return "differs as expected" if self.case.name in expected else "differs"
        return "same"

    def why(self, expected: Mapping[str, str]) -> str:
        """The reason, where the verdict needs one."""
        if self.unexplained(expected) or self.refusal or self.faults:
            found = expected.get(self.case.name) or self.refusal or "; ".join(self.faults[:3])
            more = (
                f" and {len(self.faults) - 3} more" if len(self.faults) > 3 and found not in expected.values() else ""
            )
            return found + more
        return str(self.theirs.get("error", ""))

    def unexplained(self, expected: Mapping[str, str]) -> bool:
        """Whether it is a failure: another outcome than mergekit's and no reason for it."""
        if (self.refusal or "").startswith("CRASH"):
            return True
        differs = bool(self.faults) or (self.refusal is not None and "error" not in self.theirs)
        return differs and self.case.name not in expected


def write(rows: Sequence[Row], expected: Mapping[str, str], mergekit: str, path: Path) -> None:
    """Write the table."""
    lines = [_line(row, expected) for row in rows]
    path.write_text(HEAD.format(mergekit=mergekit, summary=summary(rows, expected)) + "\n".join(lines) + "\n")


def summary(rows: Sequence[Row], expected: Mapping[str, str]) -> str:
    """One sentence about all rows."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict(expected)] = counts.get(row.verdict(expected), 0) + 1
    parts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=lambda item: -item[1]))
    worst = max((row.relative for row in rows if row.verdict(expected) == "same" and row.float32), default=0.0)
    n_tensors = sum(row.n_tensors for row in rows)
    return (
        f"{len(rows)} files: {parts}. {n_tensors} tensors compared; largest difference of a float32 result {worst:.1e}."
    )


def _line(row: Row, expected: Mapping[str, str]) -> str:
    masks = " *masks*" if row.theirs.get("injected") else ""
    difference = "0" if row.n_tensors and not row.relative else f"{row.relative:.1e}" if row.n_tensors else ""
    why = row.why(expected).replace("|", "\\|")
    verdict = row.verdict(expected) + (f": {_short(why)}" if why else "")
    cells = (row.case.name, row.case.method, row.case.features + masks, str(row.n_tensors or ""), difference, verdict)
    return f"| {' | '.join(cells)} |"


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
