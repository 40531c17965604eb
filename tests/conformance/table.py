"""TABLE.md: what came out for every file of the corpus."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.corpus import Case
from tests.conformance.difference import Difference
from tests.conformance.expected import expected

HEAD = """# Conformance with mergekit and PEFT

`make conformance` merges the same tiny models (a Llama and a Qwen2 of four layers, fine-tunes of them with exact zeros,
relatives with other vocabularies, depths and types, LoRA adapters) with mergekit {mergekit} or PEFT {peft} and with
evomerge, and compares every tensor; for the YAML files of `tests/conformance/yaml` also layers, vocabulary, type and
tying in `config.json`, the tokenizer's tokens and its chat template. It wrote this file.

* The difference is the largest of all tensors: of each, its largest deviation over its largest magnitude. It must stay
  below 1e-6; an element of a bfloat16 or float16 result may differ by one unit in its last place.
* Rows of embeddings are matched by token: mergekit numbers several new tokens at random.
* Random methods (marked *masks*) draw from torch's global generator there. In its place they get our uniform random
  numbers, to compare with the probabilities that they computed themselves; everything else is theirs.
* Where PEFT cuts a change to a rank, it does so in float64 here: in float32 its decomposition is good for some 1e-6.
* What differs as meant stands in `tests/conformance/expected.py`, with how much it may differ.
"""

TITLES = {
    "mergekit": "mergekit: YAML files",
    "back": "Back to mergekit: the `mergekit_config.yml` in our results, merged by mergekit",
    "peft": "PEFT: adapters folded, and `add_weighted_adapter`",
}
COLUMNS = "| {name} | method | features | tensors | difference | verdict |\n|---|---|---|---:|---:|---|"


@dataclass(frozen=True)
class Row:
    """What came out for one file. theirs: the other's entry; refusal: our error."""

    case: Case
    difference: Difference
    float32: bool
    theirs: Mapping[str, Any]
    refusal: str | None

    def verdict(self) -> str:
        """The word for it."""
        if "error" in self.theirs:
            return "both refuse" if self.refusal else "mergekit fails"
        if self.refusal:
            return "refused here"
        if self.differs:
            return "differs" if self.unexplained() else "differs as meant"
        return "same"

    @property
    def differs(self) -> bool:
        """Whether the results are not the same."""
        return bool(self.difference.values or self.difference.faults)

    def why(self) -> str:
        """The reason, where the verdict needs one."""
        if self.unexplained():
            return self.refusal or "; ".join((self.difference.faults + self.difference.values)[:3])
        if self.differs or (self.refusal and "error" not in self.theirs):
            return expected(self.case.name).reason
        return str(self.theirs.get("error", ""))

    def unexplained(self) -> bool:
        """Whether it is a failure: another outcome than the other's that nobody meant, or a crash of ours."""
        limit = expected(self.case.name)
        if self.refusal is not None:
            return self.refusal.startswith("CRASH") or not ("error" in self.theirs or limit.refused)
        within = self.difference.relative <= limit.relative and self.difference.share <= limit.share
        meant = all(any(part in fault for part in limit.parts) for fault in self.difference.faults)
        return not meant or bool(self.difference.values and not within)


def write(tables: Mapping[str, Sequence[Row]], versions: Mapping[str, str], path: Path) -> None:
    """Write one table for each of the others."""
    parts = [HEAD.format(**versions)]
    for tool, rows in tables.items():
        parts += [f"## {TITLES[tool]}\n", summary(rows) + "\n"]
        parts += [COLUMNS.format(name="case" if tool == "peft" else "file")]
        parts += [*(_line(row) for row in rows), ""]
    path.write_text("\n".join(parts).rstrip("\n") + "\n", encoding="utf-8")


def summary(rows: Sequence[Row]) -> str:
    """One sentence about all rows."""
    verdicts = Counter(row.verdict() for row in rows)
    parts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    same = [row for row in rows if row.verdict() == "same" and row.float32]
    worst = max((row.difference.relative for row in same), default=0.0)
    n_tensors = sum(row.difference.n_tensors for row in rows)
    return f"{len(rows)}: {parts}. {n_tensors} tensors compared; the largest difference of float32 is {worst:.1e}."


def _line(row: Row) -> str:
    n_tensors, relative = row.difference.n_tensors, row.difference.relative
    masks = " *masks*" if row.theirs.get("injected") else ""
    difference = ("0" if not relative else f"{relative:.1e}") if n_tensors else ""
    why = row.why().replace("|", "\\|")
    verdict = row.verdict() + (f": {_short(why)}" if why else "")
    cells = (row.case.name, row.case.method, row.case.features + masks, str(n_tensors or ""), difference, verdict)
    return f"| {' | '.join(cells)} |"


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
